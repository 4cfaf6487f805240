"""The models of a service: opened when first asked for, closed by least use."""

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock, Thread

from latentrt.engines.bundle.bundle import Bundle, open_bundle
from latentrt.engines.errors import LatentrtError
from latentrt.engines.store.store import engines_in
from latentrt.runtime.call.workflow import check_reads_text
from latentrt.runtime.pipeline import Pipeline
from latentrt.runtime.serving.jobs.catalog import Catalog


class NoRoomError(LatentrtError):
    """A model cannot be opened before another one is left."""


@dataclass(kw_only=True, eq=False)
class _Opened:
    pipeline: Pipeline
    bytes: int
    uses: int = 0


class Models:
    """Opens bundles by their names. Thread-safe.

    Attributes:
        catalog: the names.
        on_change: called when a model was opened, or could not be.
    """

    def __init__(self, catalog: Catalog, opens: Callable[[Path], Pipeline], *, byte_limit: int | None = None) -> None:
        """Reads every manifest; nothing is opened yet.

        Args:
            catalog: what there is.
            opens: opens a model's bundle.
            byte_limit: of the engines of all open models together; None: any. One model is open whatever it takes.

        Raises:
            BundleError: no bundle, another sort's, damaged, or of a newer latentrt.
            RequestError: a model that reads no text, which orders begin with.
        """
        self.catalog = catalog
        self.on_change: Callable[[], None] = lambda: None
        self._opens, self._byte_limit = opens, byte_limit
        self._bundles: dict[str, Bundle] = {name: open_bundle(path) for name, path in catalog.models.items()}
        for bundle in self._bundles.values():
            check_reads_text(bundle.manifest, "orders")
        self._opened: OrderedDict[str, _Opened] = OrderedDict()
        self._opening: set[str] = set()
        self._failed: dict[str, Exception] = {}
        self._lock = Lock()
        self._closed = False

    def bundle(self, name: str) -> Bundle:
        """A model's bundle: its manifest is there before it is opened."""
        return self._bundles[name]

    @property
    def limited(self) -> bool:
        """Whether models may have to leave for others."""
        return self._byte_limit is not None

    @property
    def opened(self) -> tuple[str, ...]:
        """The models that are open, the least used first."""
        with self._lock:
            return tuple(self._opened)

    @property
    def pipelines(self) -> Mapping[str, Pipeline]:
        """Those that are open, by their names. They may be closed at any time by others than who acquired them."""
        with self._lock:
            return {name: one.pipeline for name, one in self._opened.items()}

    @property
    def bytes(self) -> int:
        """Of the engines of all that are open."""
        with self._lock:
            return sum(one.bytes for one in self._opened.values())

    def acquire(self, name: str) -> Pipeline | None:
        """The model, until ``release``; None where it is not open.

        Raises:
            Exception: what opening it led to; told once, so that it may be tried again.
        """
        with self._lock:
            if name in self._failed:
                raise self._failed.pop(name)
            if name not in self._opened:
                return None
            self._opened.move_to_end(name)
            self._opened[name].uses += 1
            return self._opened[name].pipeline

    def open(self, name: str) -> None:
        """Begins to open a model; ``on_change`` tells when it is done. Those that were used longest ago leave for it.

        Raises:
            NoRoomError: it would take the room of models that are in use, or are being opened.
        """
        with self._lock:
            if name in self._opening or name in self._opened or self._closed:
                return
            leaving = self._leaving(name)
            self._opening.add(name)
        Thread(target=self._open, args=(name, leaving), name=f"latentrt-open-{name}", daemon=True).start()

    def release(self, name: str) -> None:
        """Gives a model back."""
        with self._lock:
            if name in self._opened:
                self._opened[name].uses -= 1

    def close(self) -> None:
        """Closes all; later calls get none."""
        with self._lock:
            self._closed = True
            opened = list(self._opened.values())
            self._opened.clear()
        for one in opened:
            one.pipeline.close()

    def _leaving(self, name: str) -> list[_Opened]:
        """Takes out those whose room a model needs; the lock is held.

        Raises:
            NoRoomError: they are in use.
        """
        if self._byte_limit is None:
            return []
        room = self._byte_limit - self._bytes_of(name) - sum(self._bytes_of(one) for one in self._opening)
        names: list[str] = []
        kept = sum(one.bytes for one in self._opened.values())
        for other, one in self._opened.items():
            if kept <= room:
                break
            if not one.uses:
                names.append(other)
                kept -= one.bytes
        if kept > room and (len(names) < len(self._opened) or self._opening):
            raise NoRoomError(f"got {name!r}, and the models that are open are in use; wait until they are not")
        return [self._opened.pop(other) for other in names]

    def _open(self, name: str, leaving: Sequence[_Opened]) -> None:
        """Opens a model in the room of others; a thread's own work, as to close one may take long as well."""
        try:
            for one in leaving:
                one.pipeline.close()
            pipeline = self._opens(self.catalog.models[name])
            for path in self.catalog.embeddings.values():
                _load_if_it_fits(pipeline, path)
        except Exception as error:  # told to those who wait for it
            with self._lock:
                self._opening.discard(name)
                self._failed[name] = error
        else:
            with self._lock:
                self._opening.discard(name)
                closed = self._closed
                if not closed:
                    self._opened[name] = _Opened(pipeline=pipeline, bytes=self._bytes_of(name))
            if closed:
                pipeline.close()
        self.on_change()

    def _bytes_of(self, name: str) -> int:
        """Of a model's engines, as their records tell: they are mapped, so this is what opening can take."""
        root = self._bundles[name].root
        by_backend: dict[str, int] = {}
        for engine in engines_in(root):
            size = sum(file.size for file in engine.files.values())
            by_backend[engine.backend] = by_backend.get(engine.backend, 0) + size
        return max(by_backend.values(), default=0)


def _load_if_it_fits(pipeline: Pipeline, path: Path) -> None:
    """Loads a textual inversion; one for another model is left alone."""
    try:
        pipeline.load_textual_inversion(path)
    except LatentrtError:
        return
