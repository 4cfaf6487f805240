"""A session that tells how many functions of ours stand between a call and the backend."""

import sys
import threading
import time
from types import FrameType
from typing import Any

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
