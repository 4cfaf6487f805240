"""How long work is reported: named stages that begin and end, and phases within them that come so far."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from time import perf_counter
from typing import Protocol


class Progress(Protocol):
    """Receives the stages of a build."""

    def stage(self, name: str) -> AbstractContextManager[None]:
        """Entered when the stage begins, left when it ends or fails."""
        ...

    def phase(self, name: str, done: int, total: int) -> None:
        """A phase of the current stage has done so many of its steps; may be called from any thread."""
        ...


class StageTimer:
    """Measures every stage and passes it on to another ``Progress``, if there is one."""

    def __init__(self, onward: Progress | None = None) -> None:
        self._onward = onward
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Adds the stage's wall time in seconds to ``seconds[name]``."""
        start = perf_counter()
        if self._onward is None:
            yield
        else:
            with self._onward.stage(name):
                yield
        self.seconds[name] = self.seconds.get(name, 0.0) + perf_counter() - start

    def phase(self, name: str, done: int, total: int) -> None:
        """Passes it on."""
        if self._onward is not None:
            self._onward.phase(name, done, total)
