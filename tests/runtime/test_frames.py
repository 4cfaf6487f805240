"""How many frames of ours stand between a pipeline's call and the backend: each costs time, and a reader's patience."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from watched_session import MOST, Watched

import latentrt
from latentrt.engines.backends.ort_cpu.halves import Halves
from latentrt.engines.backends.ort_cpu.model import STEP_FILE


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


def test_a_whole_step_passes_few_frames(tiny_bundle: Path) -> None:
    """As many, with the loop on the device."""
    with latentrt.open(tiny_bundle, threads=1, loop="device") as pipe:
        model: Any = pipe._components._models["unet"]._model  # type: ignore[attr-defined]
        steps = model.of_graph(STEP_FILE)
        steps._session = watched = Watched(steps._session)
        DRAWS["guided"](pipe)
    assert len(watched.stacks) == 2
    for stack in watched.stacks:
        assert stack[-1] == "Pipeline.__call__"
        assert len(stack) <= MOST, stack
