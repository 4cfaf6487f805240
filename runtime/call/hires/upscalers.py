"""The upscalers that a pipeline's calls named by their paths."""

from pathlib import Path
from threading import Lock

from latentrt.engines.forks import watch_forks
from latentrt.engines.precision import Backend
from latentrt.runtime.upscaling.upscaler import Upscaler, upscaler_from_path


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

    def upscaler(self, path: Path) -> Upscaler:
        """The upscaler of a bundle's path.

        Raises:
            BundleError: no bundle of one, or damaged.
            EngineError: no engine in it fits this machine.
        """
        path = path.absolute()
        with self._lock:
            if path not in self._opened:
                self._opened[path] = upscaler_from_path(path, backend=self._backend, threads=self._threads)
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
