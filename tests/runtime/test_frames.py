"""How many frames of ours stand between a pipeline's call and the backend: each costs time, and a reader's patience."""

import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import latentrt
from latentrt.engines.backends.ort_cpu.halves import Halves

MOST = 5


class Watched:
    """A session that tells what stands on the caller's stack when it is asked to run."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self.stacks: list[list[str]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def run(self, *arguments: Any) -> Any:
        here = threading.current_thread() is threading.main_thread()
        while not here and stack_of_caller()[0].startswith("Halves."):  # it hands the other half out meanwhile
            time.sleep(0.001)
        self.stacks.append([name for name in stack_of_caller() if not name.startswith("Watched.")])
        return self._session.run(*arguments)


def stack_of_caller() -> list[str]:
    """The names of latentrt's functions on the main thread's stack, the innermost first."""
    frame: FrameType | None = sys._current_frames()[threading.main_thread().ident or 0]
    names = []
    while frame is not None:
        if frame.f_globals.get("__name__", "").startswith("latentrt."):
            names.append(frame.f_code.co_qualname)
        frame = frame.f_back
    return names


@pytest.fixture
def opened(tiny_bundle: Path) -> Any:
    """A pipeline of its own, whose sessions may be exchanged."""
    with latentrt.open(tiny_bundle, threads=2) as pipe:
        yield pipe


DRAWS: dict[str, Callable[[latentrt.Pipeline], Any]] = {
    "guided": lambda pipe: pipe("a cat", num_inference_steps=2, guidance_scale=5.0, seed=1),
    "unguided": lambda pipe: pipe("a cat", num_inference_steps=2, guidance_scale=1.0, seed=1),
}


@pytest.mark.parametrize("name", DRAWS)
def test_a_step_passes_few_frames(opened: latentrt.Pipeline, name: str) -> None:
    """From ``pipe(…)`` itself to the function that calls the session, both counted."""
    model: Any = opened._components._models["unet"]._model  # type: ignore[attr-defined]
    halves = model.session
    assert isinstance(halves, Halves)
    watched = Watched(halves.narrow if name == "guided" else halves.whole)
    setattr(halves, "_narrow" if name == "guided" else "_whole", watched)
    DRAWS[name](opened)
    assert len(watched.stacks) >= 2
    for stack in watched.stacks:
        assert stack[-1] == "Pipeline.__call__"
        assert len(stack) <= MOST, stack
