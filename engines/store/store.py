"""Compiled engines inside a bundle: made, found by their identity, opened, and refused when they do not fit."""

import os
import shutil
from collections.abc import Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from threading import Lock
from typing import Protocol

from latentrt.engines.backends.compiler import Compiler, Model, Target, runs_here
from latentrt.engines.backends.registry import COMPILERS
from latentrt.engines.bundle.bundle import Bundle, Probe, check_files, record_files
from latentrt.engines.bundle.component import Component
from latentrt.engines.bundle.gate import measure
from latentrt.engines.bundle.kinds import Opening
from latentrt.engines.bundle.manifest import (
    ENGINE_FILE,
    SCHEMA,
    EngineManifest,
    ParityRecord,
    read_manifest,
    write_manifest,
)
from latentrt.engines.engine import Engine
from latentrt.engines.errors import BundleError, BusyError, EngineError, OutputError, RequestError
from latentrt.engines.files import locked, output_error, write_file
from latentrt.engines.precision import Backend
from latentrt.engines.progress import Progress
from latentrt.engines.shapes import Shapes
from latentrt.engines.store.key import EngineIdentity

AUTO = "auto"


def identity_of(component: Component, compiler: Compiler, machine: str) -> EngineIdentity:
    """The engine that a component has on a machine, if it is made with what is installed here."""
    return EngineIdentity(
        component=component.name,
        onnx_sha256=component.onnx_sha256,
        backend=compiler.backend,
        backend_version=compiler.version(),
        precision=component.record.precision,
        machine=machine,
        flags=tuple(sorted(compiler.flags.items())),
        shapes=tuple(str(profile) for profile in compiler.profiles(component)),
    )


def engine_folder(root: Path, identity: EngineIdentity) -> Path:
    """Where an engine lies in a bundle."""
    return root / "engines" / identity.key


def stored_engine(root: Path, identity: EngineIdentity, *, largest_hashed: int | None = None) -> EngineManifest:
    """The engine of this identity, with its files checked: sizes always, digests up to ``largest_hashed`` bytes.

    Raises:
        BundleError: it is missing, or a file of it is missing or altered.
    """
    folder = engine_folder(root, identity)
    engine = read_engine(folder)
    check_files(folder, engine.files, largest_hashed=largest_hashed)
    return engine


def engine_whole(component: Component, compiler: Compiler, target: Target) -> EngineManifest | None:
    """The component's engine for a target if it is there, whole, and made with the workspace asked for.

    One that would become better by compiling it again does not count.
    """
    try:
        engine = stored_engine(component.root, identity_of(component, compiler, target.machine))
    except BundleError:
        return None
    if compiler.would_improve(component, engine):
        return None
    return engine if target.workspace_mb in (None, engine.workspace_mb) else None


def compile_component(
    component: Component, compiler: Compiler, target: Target, probes: Iterable[Probe], progress: Progress | None = None
) -> EngineManifest:
    """Compiles one component into ``engines/<key>/``; where the target is this machine, it passes its gate first.

    The folder is filled under another name and renamed, so a killed compile leaves no half engine. An engine
    that is there already and whole is kept.

    Raises:
        EngineError: the backend cannot compile it.
        ParityError: the compiled engine misses its gate.
        OutputError: the disk is full or read-only.
    """
    existing = engine_whole(component, compiler, target)
    if existing is not None:
        return existing
    identity = identity_of(component, compiler, target.machine)
    folder = engine_folder(component.root, identity)
    staging = folder.with_name(f".{identity.key}.building")
    try:
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True)
        contents = compiler.compile(component, target, staging, progress)
        parity = None
        if runs_here(compiler, target.machine):
            model = compiler.open(component, staging, threads=None)
            try:
                chunks = 1 if compiler.profiles(component) else None
                parity = measure(component, model.engine, probes, largest_chunks=chunks)
            finally:
                model.close()
        engine = EngineManifest(
            schema_version=SCHEMA,
            key=identity.key,
            component=component.name,
            backend=identity.backend,
            backend_version=identity.backend_version,
            precision=identity.precision,
            onnx_sha256=identity.onnx_sha256,
            machine=identity.machine,
            flags=dict(identity.flags),
            shapes=identity.shapes,
            workspace_mb=target.workspace_mb,
            contents=contents,
            parity=parity,
            files=record_files(staging, [path.name for path in staging.iterdir()]),
        )
        write_manifest(staging / ENGINE_FILE, engine)
        shutil.rmtree(folder, ignore_errors=True)
        os.rename(staging, folder)
    except OSError as error:
        raise output_error(folder, error) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return engine


def read_engine(folder: Path) -> EngineManifest:
    """Reads ``engine.json`` and checks that it belongs to its folder.

    Raises:
        BundleError: missing, damaged, or copied from elsewhere.
    """
    engine = read_manifest(folder / ENGINE_FILE, EngineManifest)
    if engine.key != folder.name:
        raise BundleError(f"{str(folder)!r} holds the engine of another key; build the bundle again")
    return engine


def engines_in(root: Path) -> list[EngineManifest]:
    """Every readable engine of a bundle."""
    found = []
    for folder in sorted((root / "engines").glob("[0-9a-f]*")):
        try:
            found.append(read_engine(folder))
        except BundleError:
            continue
    return found


def best_backend(bundle: Bundle) -> Backend:
    """The first backend in the order of preference whose engines the bundle has and this machine can run.

    Raises:
        EngineError: there is none, with the reason of each that the bundle has.
    """
    present = {engine.backend for engine in engines_in(bundle.root)}
    reasons = []
    for backend in COMPILERS:
        if backend not in present:
            continue
        try:
            for name in bundle.manifest.components:
                compiled_folder(Component(root=bundle.root, manifest=bundle.manifest, name=name), backend)
        except EngineError as error:
            reasons.append(str(error))
            continue
        return backend
    if reasons:
        raise EngineError(
            f"no engine of {str(bundle.root)!r} runs here: {'; '.join(reasons)}; make one for this machine with: "
            f"latentrt build {bundle.root}"
        )
    return Backend.ORT_CPU  # whose refusal says how to make engines


def chosen_backend(bundle: Bundle, name: str) -> Backend:
    """The backend of a name; of ``"auto"`` the best one.

    Raises:
        RequestError: an unknown name.
        EngineError: the bundle has no engine that runs here.
    """
    if name != AUTO and name not in tuple(Backend):
        raise RequestError(f"got backend {name!r}, expected {', '.join((AUTO, *Backend))}; choose one of these")
    return best_backend(bundle) if name == AUTO else Backend(name)


def record_parity(root: Path, engine: EngineManifest, parity: ParityRecord) -> None:
    """Writes figures into the record of an engine that has none.

    Where it cannot be written, or was made again meanwhile, nothing changes: the figures are known all the same.
    """
    if engine.parity is not None:
        return
    folder = root / "engines" / engine.key
    done = engine.model_copy(update={"parity": parity})
    with suppress(BundleError, BusyError, OutputError), locked(root.resolve()):
        if read_engine(folder) == engine:
            write_file(folder / ENGINE_FILE, lambda path: write_manifest(path, done))


class Engines(Protocol):
    """Opened components of a bundle, as a pipeline takes them."""

    bundle: Bundle
    backend: Backend

    def engine(self, component: str, shapes: Shapes) -> Engine:
        """The component at these shapes."""
        ...

    def close(self) -> None:
        """Releases what it holds."""
        ...


class OpenComponents:
    """The components of a bundle, opened on one backend; closes them together."""

    def __init__(self, bundle: Bundle, backend: Backend, *, threads: int | None, hashed: Collection[str] = ()) -> None:
        """Finds every component's engine, and opens all but those that only some calls need.

        An engine's files are compared with their sizes here, and hashed as the engine is opened.

        Args:
            bundle: whose components they are.
            backend: what runs them.
            threads: threads of a call on the CPU; None takes one per core.
            hashed: keys of engines whose files were hashed just now, and are not hashed again.

        Raises:
            EngineError: no engine fits this machine.
            BundleError: an engine is damaged.
            RequestError: fewer than 1 thread.
        """
        if threads is not None and threads < 1:
            raise RequestError(f"got {threads} threads, expected at least 1; leave it out for one per core")
        self.bundle = bundle
        self.backend = backend
        self._threads = threads
        self._hashed = frozenset(hashed)
        self._lock = Lock()
        self._closed = False
        self._compiler = COMPILERS[backend]
        self._models: dict[str, Model] = {}
        self._components = {
            name: Component(root=bundle.root, manifest=bundle.manifest, name=name)
            for name in bundle.manifest.components
        }
        self._folders = {name: compiled_folder(part, backend) for name, part in self._components.items()}
        try:
            at_once = (name for name, part in self._components.items() if part.kind.opening is Opening.WITH_BUNDLE)
            self._open_all(sorted(at_once))
        except BaseException:
            self.close()
            raise

    def engine(self, component: str, shapes: Shapes) -> Engine:
        """The component at these shapes; engines of one component share weights.

        Where the backend's graph takes every size that the component's factors divide, the profile need not be one of
        the bundle's: so the autoencoder runs tiles. A backend of fixed shapes returns the autoencoder's smallest
        engine that holds the size; the caller of tiles copes with a larger one.

        Raises:
            RequestError: shapes that were not compiled.
            EngineError: closed, or the device's memory does not hold it.
        """
        return self._model(component).engine(shapes)

    def _model(self, component: str) -> Model:
        with self._lock:
            if self._closed:
                raise EngineError("the pipeline is closed; open the bundle again")
            if component not in self._models:
                self._open(component)
            return self._models[component]

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
                for model in list(self._models.values()):
                    rest.callback(model.close)


def compiled_folder(component: Component, backend: Backend) -> Path:
    """Where the component's engine for this machine is; the sizes of its files are checked.

    Raises:
        EngineError: no engine fits this machine.
        BundleError: it is damaged.
    """
    compiler = COMPILERS[backend]
    identity = identity_of(component, compiler, compiler.here())
    folder = engine_folder(component.root, identity)
    if not folder.is_dir():
        raise EngineError(_why_none_fits(component, compiler, identity))
    stored_engine(component.root, identity, largest_hashed=0)
    return folder


def _why_none_fits(component: Component, compiler: Compiler, wanted: EngineIdentity) -> str:
    backend, name = compiler.backend, component.name
    remedy = f"make one for this machine with: latentrt build {component.root} --backend {backend}"
    others = [e for e in engines_in(component.root) if e.component == name and e.backend == backend]
    foreign = sorted({e.machine for e in others if e.machine != wanted.machine})
    if foreign and all(e.machine != wanted.machine for e in others):
        return (
            f"the {backend} engine of {name} was compiled for another machine "
            f"(got {', '.join(map(repr, foreign))}, expected {wanted.machine!r}); {remedy}"
        )
    versions = {e.backend_version for e in others if e.machine == wanted.machine} - {wanted.backend_version}
    if versions:
        return (
            f"the {backend} engine of {name} was compiled by {compiler.maker} {', '.join(sorted(versions))}, "
            f"installed is {wanted.backend_version}; {remedy}"
        )
    return f"{str(component.root)!r} has no {backend} engine of {name}; {remedy}"
