"""Bundles that stand beside a pipeline: manifests are read at once, engines are opened as they are needed."""

from collections.abc import Callable
from pathlib import Path
from threading import Lock
from typing import Any, Generic, Self, TypeVar

from latentrt.engines.bundle.bundle import BundleFolder
from latentrt.engines.engine import Engine
from latentrt.engines.errors import EngineError
from latentrt.engines.forks import watch_forks
from latentrt.engines.precision import Backend
from latentrt.engines.shapes import Shapes
from latentrt.engines.store.components import OpenComponents

_Folder = TypeVar("_Folder", bound=BundleFolder)


class OpenedBundle(Generic[_Folder]):
    """What add-ons and upscalers share. Threads and pipelines may share one.

    Closed, it releases its engines; calls that need them are refused from then on. Pickled, it is the bundle's path and
    the options that it was opened with: where it arrives, the bundle is opened.
    """

    called = "the bundle"
    """What messages call it, before its name."""
    opener = "latentrt.open"
    """What opens such a bundle."""

    def __init__(self, bundle: _Folder, backend: Backend, *, threads: int | None, reopen: Callable[[], Self]) -> None:
        """Takes a bundle. No engine is opened yet.

        Args:
            bundle: it.
            backend: what runs it.
            threads: of a call on the CPU; None takes one per core.
            reopen: opens the bundle in the same way, and can be pickled.
        """
        self._bundle, self._backend, self._threads, self._reopen = bundle, backend, threads, reopen
        self._lock, self._closed = Lock(), False
        self._components: OpenComponents[_Folder] | None = None
        watch_forks(self)

    @property
    def name(self) -> str:
        """The folder's name without ``.bundle``."""
        return self._bundle.root.name.removesuffix(".bundle")

    @property
    def backend(self) -> Backend:
        """The backend that runs its engines."""
        return self._backend

    def engine(self, component: str, shapes: Shapes) -> Engine:
        """One of its components at these shapes.

        Raises:
            EngineError: closed, no engine fits this machine, or shapes that were not compiled.
        """
        with self._lock:
            if self._closed:
                raise EngineError(f"{self.called} {self.name!r} is closed; open it again with {self.opener}")
            if self._components is None:
                self._components = OpenComponents(self._bundle, self._backend, threads=self._threads)
            return self._components.engine(component, shapes)

    def after_fork(self) -> None:
        """Called in a forked process, where whoever was opening is not there."""
        self._lock = Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        """How to open the bundle again."""
        return self._reopen, ()

    def close(self) -> None:
        """Releases the engines; may be called twice."""
        with self._lock:
            components, self._components, self._closed = self._components, None, True
        if components is not None:
            components.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


_Opened = TypeVar("_Opened", bound=OpenedBundle[Any])


class BundlesByPath(Generic[_Opened]):
    """The bundles of one sort that a pipeline's calls named by their paths: each is opened once, and closed with it."""

    def __init__(self, opens: Callable[[Path], _Opened]) -> None:
        """Opens none yet.

        Args:
            opens: opens a bundle as the pipeline wants it.
        """
        self._opens = opens
        self._lock = Lock()
        self._opened: dict[Path, _Opened] = {}
        watch_forks(self)

    def opened(self, path: str | Path) -> _Opened:
        """The bundle of a path.

        Raises:
            BundleError: no bundle, another sort's, damaged, or of a newer latentrt.
            EngineError: no engine in it fits this machine.
        """
        path = Path(path).absolute()
        with self._lock:
            if path not in self._opened:
                self._opened[path] = self._opens(path)
            return self._opened[path]

    def after_fork(self) -> None:
        """Called in a forked process, where whoever was opening is not there."""
        self._lock = Lock()

    def close(self) -> None:
        """Closes all that it opened."""
        with self._lock:
            opened, self._opened = self._opened, {}
        for bundle in opened.values():
            bundle.close()
