"""The upscalers that a pipeline's calls named by their paths."""

from importlib import import_module
from pathlib import Path
from threading import Lock
from typing import Protocol

from latentrt.engines.forks import watch_forks
from latentrt.engines.precision import Backend
from latentrt.engines.spec import Array


class Upscaler(Protocol):
    """What enlarges pictures by a network."""

    @property
    def name(self) -> str:
        """Its bundle's."""
        ...

    def upscaled(self, pixels: Array, scale: float | None = None) -> Array:
        """Pictures (N, H, W, 3) float32 in [0, 1], ``scale`` times as high and wide."""
        ...

    def close(self) -> None:
        """Releases its engine."""
        ...


class OpenUpscalers:
    """Each is opened once, and closed with the pipeline."""

    def __init__(self, backend: Backend, *, threads: int | None) -> None:
        """Opens none yet: those that come are opened on the pipeline's backend.

        Args:
            backend: the pipeline's.
            threads: of a call on the CPU; None takes one per core.
        """
        self._backend, self._threads = backend, threads
        self._lock = Lock()
        self._opened: dict[Path, Upscaler] = {}
        watch_forks(self)

    def upscaler(self, path: str | Path) -> Upscaler:
        """The upscaler of a bundle's path.

        Raises:
            BundleError: no bundle of one, or damaged.
            EngineError: no engine in it fits this machine.
        """
        path = Path(path).absolute()
        with self._lock:
            if path not in self._opened:
                opens = import_module("latentrt.runtime.upscaling.upscaler").upscaler_from_path
                self._opened[path] = opens(path, backend=self._backend, threads=self._threads)
            return self._opened[path]

    def after_fork(self) -> None:
        """Called in a forked process, where whoever was opening is not there."""
        self._lock = Lock()

    def close(self) -> None:
        """Closes all that it opened."""
        with self._lock:
            opened, self._opened = self._opened, {}
        for upscaler in opened.values():
            upscaler.close()
