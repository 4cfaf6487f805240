"""A bundle's components, opened on one backend."""

from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from threading import Lock
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from latentrt.engines.backends.compiler import Model
from latentrt.engines.backends.registry import COMPILERS
from latentrt.engines.bundle.bundle import Bundle, BundleFolder
from latentrt.engines.bundle.checked_files import check_files
from latentrt.engines.bundle.component import Component
from latentrt.engines.bundle.kinds import Opening
from latentrt.engines.bundle.usual_backend import or_ort_cpu
from latentrt.engines.changes import Changes
from latentrt.engines.engine import Engine
from latentrt.engines.errors import EngineError, RequestError
from latentrt.engines.forks import keep_for_ever, watch_forks
from latentrt.engines.precision import Backend
from latentrt.engines.shapes import AddedInputs, Loop, Shapes
from latentrt.engines.store.changed_models import ChangedModels
from latentrt.engines.store.store import compiled_folder, holding, read_engine

if TYPE_CHECKING:
    from latentrt.engines.bundle.weights import ComponentWeights

_Folder = TypeVar("_Folder", bound=BundleFolder)
CHANGED_MODELS = 2
"""How many sets of LoRAs stay ready."""


class Engines(Protocol):
    """Opened components of a bundle, as a pipeline takes them."""

    bundle: Bundle
    backend: Backend
    loop: Loop

    @property
    def changed_models(self) -> ChangedModels:
        """The models with changed weights that are kept."""
        ...

    def engine(self, component: str, shapes: Shapes, changes: Changes | None = None) -> Engine:
        """The component at these shapes; with some of its weights changed, where that is asked."""
        ...

    def close(self) -> None:
        """Releases what it holds."""
        ...


class OpenComponents(Generic[_Folder]):
    """The components of a bundle, opened on one backend; closes them together.

    A forked process opens for itself what it asks for: its parent's engines rely on threads that it has not.
    """

    def __init__(
        self,
        bundle: _Folder,
        backend: Backend,
        *,
        threads: int | None,
        hashed: Collection[str] = (),
        changed_models: int = CHANGED_MODELS,
        loop: Loop = Loop.HOST,
    ) -> None:
        """Finds every component's engine, and opens all but those that only some calls need.

        With a loop on the device the U-Net that makes whole steps is one of these, and the plain one is not.

        An engine's files are compared with their sizes here, and hashed as the engine is opened.

        Args:
            bundle: whose components they are.
            backend: what runs them.
            threads: threads of a call on the CPU; None takes one per core.
            hashed: keys of engines whose files were hashed just now, and are not hashed again.
            changed_models: how many models with changed weights stay open of each component.
            loop: where runs are to be between the calls of the U-Net.

        Raises:
            EngineError: no engine fits this machine, or none makes the steps of a loop on the device.
            BundleError: an engine is damaged.
            RequestError: fewer than 1 thread, or fewer than 0 changed models.
        """
        if threads is not None and threads < 1:
            raise RequestError(f"got {threads} threads, expected at least 1; leave it out for one per core")
        self.bundle = bundle
        self.backend = backend
        self.loop = loop
        self._threads = threads
        self._hashed = frozenset(hashed)
        self._lock = Lock()
        self._closed = False
        self._forked = False
        self._compiler = COMPILERS[backend]
        if loop is Loop.DEVICE:
            self._check_steps()
        self._models: dict[str, Model] = {}
        self._labels: dict[tuple[str, frozenset[AddedInputs], Loop], str] = {}
        self._weights: dict[str, ComponentWeights] = {}
        self.changed_models = ChangedModels(changed_models)
        self._components = {
            name: Component(root=bundle.root, manifest=bundle.manifest, name=name)
            for name in bundle.manifest.components
        }
        self._folders = {name: compiled_folder(part, backend) for name, part in self._components.items()}
        watch_forks(self)
        try:
            at_once = [name for name, part in self._components.items() if part.kind.opening is Opening.WITH_BUNDLE]
            if self._compiler.added_apart:
                at_once = [self._label(name, frozenset(), loop) if self._in_steps(name) else name for name in at_once]
            self._open_all(sorted(at_once))
        except BaseException:
            self.close()
            raise

    def engine(self, component: str, shapes: Shapes, changes: Changes | None = None) -> Engine:
        """The component at these shapes; engines of one component share weights.

        Where a backend compiles added inputs apart, what is asked for is the smallest engine that takes them. It is
        opened when a call first needs it, and shares nothing with the plain one.

        With changes, what they touch is made once and kept for the next calls; without, it is the component as it was
        built.

        Where the backend's graph takes every size that the component's factors divide, the profile need not be one of
        the bundle's: so the autoencoder runs tiles. A backend of fixed shapes returns the autoencoder's smallest
        engine that holds the size; the caller of tiles copes with a larger one.

        Raises:
            RequestError: shapes that were not compiled, or weights that cannot be changed so.
            EngineError: closed, the device's memory does not hold it, or an engine that does not know its weights.
        """
        if shapes.cached is not None and not self._compiler.deep_cache:
            able = ", ".join(backend for backend, compiler in COMPILERS.items() if compiler.deep_cache)
            raise EngineError(
                f"got deep_cache on backend {self.backend}, expected one of {able}, which do it; leave it out"
                f"{or_ort_cpu(self.bundle.manifest, 'open the bundle with the backend')}"
            )
        label, model = self._model(component, shapes)
        if changes is None:
            return model.engine(shapes)
        made = partial(self._changed, component, model, changes)
        return self.changed_models.model(label, changes.key, made).engine(shapes)

    def _changed(self, component: str, model: Model, changes: Changes) -> Model:
        with self._lock:
            if component not in self._weights:
                self._weights[component] = self.bundle.weights(component)
        return model.changed(self._weights[component], changes)

    def _model(self, component: str, shapes: Shapes) -> tuple[str, Model]:
        """The model that takes the added inputs, or makes whole steps, and what it is kept by."""
        with self._lock:
            if self._closed:
                raise EngineError("the pipeline is closed; open the bundle again")
            apart = self._compiler.added_apart and (shapes.added or shapes.loop is Loop.DEVICE)
            label = self._label(component, shapes.added, shapes.loop) if apart else component
            if label not in self._models:
                self._check_fork()
                self._open(label)
            return label, self._models[label]

    def _label(self, component: str, added: frozenset[AddedInputs], loop: Loop) -> str:
        if (component, added, loop) not in self._labels:
            variant = holding(self._components[component], self.backend, added, loop)
            self._folders[variant.label] = compiled_folder(variant, self.backend)
            self._components[variant.label] = variant
            self._labels[component, added, loop] = variant.label
        return self._labels[component, added, loop]

    def _in_steps(self, name: str) -> bool:
        """Whether the loop asks a component for whole steps."""
        return self.loop is Loop.DEVICE and self._components[name].makes_steps

    def _check_steps(self) -> None:
        """Refuses a loop on a device that cannot be."""
        if not self._compiler.device_loop:
            able = ", ".join(backend for backend, compiler in COMPILERS.items() if compiler.device_loop)
            raise EngineError(
                f"got loop {Loop.DEVICE.value!r} on backend {self.backend}, whose engines make no whole steps, "
                f"expected one of {able}; leave it out, or choose one of these"
            )
        components = (
            Component(root=self.bundle.root, manifest=self.bundle.manifest, name=n)
            for n in self.bundle.manifest.components
        )
        unet = next((part for part in components if part.makes_steps), None)
        if unet is None:
            raise EngineError(
                f"got loop {Loop.DEVICE.value!r} for {str(self.bundle.root)!r}, which has no U-Net that draws "
                "pictures; leave it out"
            )
        if self._compiler.added_apart:
            holding(unet, self.backend, frozenset(), Loop.DEVICE)

    def _check_fork(self) -> None:
        if self._forked and not self._compiler.opens_after_fork:
            raise EngineError(
                f"got a call in a process that was forked from the one that opened the bundle on {self.backend}, and a "
                "GPU does not follow a fork; start such processes with multiprocessing's 'spawn', and open the bundle "
                "or send the pipeline there"
            )

    def after_fork(self) -> None:
        """Leaves the parent's engines alone."""
        keep_for_ever(self._models)
        keep_for_ever(self.changed_models)
        self._lock, self._models, self._forked = Lock(), {}, True
        self.changed_models = ChangedModels(self.changed_models.size)

    def _open_all(self, names: Sequence[str]) -> None:
        try:
            with ThreadPoolExecutor(len(names), "latentrt-open") as pool:
                opening = [pool.submit(self._open, name) for name in names if self._compiler.opens_at_once]
        except RuntimeError:  # the interpreter ends, and this thread is left
            opening = []
        for one in opening:
            one.result()
        for name in names:
            if name not in self._models:
                self._open(name)

    def _open(self, name: str) -> None:
        part, folder = self._components[name], self._folders[name]
        if self._in_steps(name) and not self._compiler.added_apart:  # where they are apart, the name says it
            part = replace(part, loop=self.loop)
        if folder.name not in self._hashed:
            check_files(folder, read_engine(folder).files, largest_hashed=self._compiler.largest_hashed)
        self._models[name] = self._compiler.open(part, folder, threads=self._threads)
        if self._closed:  # as the opening was interrupted
            self._models[name].close()

    def close(self) -> None:
        """Releases all weights; further runs are refused."""
        with self._lock:
            self._closed = True
            with ExitStack() as rest:  # whichever of them fails, the others are closed
                rest.callback(self.changed_models.close)
                for model in list(self._models.values()):
                    rest.callback(model.close)
