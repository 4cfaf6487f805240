"""Compiled engines inside a bundle: made, found by key, opened, and refused when they do not fit."""

import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from threading import Lock

from latentrt.engines import ort_cpu
from latentrt.engines.bundle import HASHED_AT_OPEN, Bundle, Probe, check_files, record_files
from latentrt.engines.engine import Engine
from latentrt.engines.errors import BundleError, EngineError, RequestError
from latentrt.engines.files import output_error
from latentrt.engines.key import engine_key, onnx_digest
from latentrt.engines.machine import cpu_features
from latentrt.engines.manifest import (
    ENGINE_FILE,
    SCHEMA,
    BundleManifest,
    EngineManifest,
    ParityRecord,
    read_manifest,
    write_manifest,
)
from latentrt.engines.ort_cpu import OrtCpuEngine, OrtCpuModel
from latentrt.engines.parity import EXACT, Parity, gate
from latentrt.engines.precision import Backend
from latentrt.engines.profile import Profile
from latentrt.engines.spec import EngineSpec

# Text-to-image never needs it; the first image-to-image call opens it.
_ON_DEMAND = frozenset({"vae_encoder"})


def current_key(manifest: BundleManifest, component: str, backend: Backend) -> str:
    """The key of the engine that this machine would use for a component."""
    return engine_key(
        component=component,
        onnx_sha256=onnx_digest(manifest, component),
        backend=backend,
        backend_version=ort_cpu.version(),
        precision=manifest.components[component].precision,
        machine=cpu_features(),
        flags=ort_cpu.FLAGS,
    )


def compile_component(
    root: Path, manifest: BundleManifest, component: str, backend: Backend, probes: Iterable[Probe]
) -> EngineManifest:
    """Compiles one component into ``engines/<key>/`` and gates it against its probes.

    The folder is filled under another name and renamed, so a killed compile leaves no half engine. An engine
    that is there already and whole is kept.

    Raises:
        EngineError: the backend cannot compile it.
        ParityError: the compiled engine misses its gate.
        OutputError: the disk is full or read-only.
    """
    record = manifest.components[component]
    key = current_key(manifest, component, backend)
    folder = root / "engines" / key
    try:
        existing = read_engine(folder)
        check_files(folder, existing.files, largest_hashed=None)
        return existing
    except BundleError:
        pass
    staging = folder.with_name(f".{key}.building")
    try:
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True)
        ort_cpu.compile_onnx(root / record.onnx, staging)
        model = OrtCpuModel(staging, threads=None)
        try:
            parity, cases = _measure(model, manifest, component, probes)
        finally:
            model.close()
        gate(component, parity, record.precision)
        files = [path.name for path in staging.iterdir()]
        engine = EngineManifest(
            schema_version=SCHEMA,
            key=key,
            component=component,
            backend=backend,
            backend_version=ort_cpu.version(),
            precision=record.precision,
            onnx_sha256=onnx_digest(manifest, component),
            machine=cpu_features(),
            flags=ort_cpu.FLAGS,
            parity=ParityRecord(relative_error=parity.relative_error, psnr=parity.psnr, cases=cases),
            files=record_files(staging, files),
        )
        write_manifest(staging / ENGINE_FILE, engine)
        shutil.rmtree(folder, ignore_errors=True)
        os.rename(staging, folder)
    except OSError as error:
        raise output_error(folder, error) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return engine


def _measure(
    model: OrtCpuModel, manifest: BundleManifest, component: str, probes: Iterable[Probe]
) -> tuple[Parity, int]:
    worst, cases = EXACT, 0
    for probe in probes:
        chunks = manifest.chunks(component, probe.inputs)
        engine = OrtCpuEngine(model, spec_at(manifest, component, probe.profile, chunks))
        worst, cases = worst.worse(probe.parity(engine.run(probe.inputs))), cases + 1
    return worst, cases


def spec_at(manifest: BundleManifest, component: str, profile: Profile, chunks: int = 1) -> EngineSpec:
    """The component's spec at a profile, with every batch size that ONNX Runtime on the CPU runs."""
    largest = profile.batch * manifest.components[component].batch_per_picture
    return manifest.spec(component, profile, tuple(range(1, largest + 1)), chunks)


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


class OpenComponents:
    """The components of a bundle, opened on one backend; closes them together."""

    def __init__(self, bundle: Bundle, backend: Backend, *, threads: int | None) -> None:
        """Checks every component's engine, and opens all but those that only some calls need.

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
        self._lock = Lock()
        self._closed = False
        self._models: dict[str, OrtCpuModel] = {}
        self._folders = {name: _folder_for(bundle, name, backend) for name in bundle.manifest.components}
        for name in self._folders.keys() - _ON_DEMAND:
            self._model(name)

    def engine(self, component: str, profile: Profile, chunks: int = 1) -> Engine:
        """The component at one profile, for prompts of so many chunks; engines of one component share weights.

        The profile need not be one of the bundle's: the graph takes every size that the component's factors divide,
        which is how the autoencoder runs tiles. (A backend of fixed shapes is to return its smallest engine that
        holds the size; whoever asks for tiles copes with a larger one.)
        """
        return OrtCpuEngine(self._model(component), spec_at(self.bundle.manifest, component, profile, chunks))

    def _model(self, component: str) -> OrtCpuModel:
        with self._lock:
            if self._closed:
                raise EngineError("the pipeline is closed; open the bundle again")
            if component not in self._models:
                self._models[component] = OrtCpuModel(self._folders[component], threads=self._threads)
            return self._models[component]

    def close(self) -> None:
        """Releases all weights; further runs are refused."""
        with self._lock:
            self._closed = True
            for model in self._models.values():
                model.close()


def _folder_for(bundle: Bundle, component: str, backend: Backend) -> Path:
    key = current_key(bundle.manifest, component, backend)
    folder = bundle.root / "engines" / key
    if not folder.is_dir():
        raise EngineError(_why_none_fits(bundle, component, backend))
    engine = read_engine(folder)
    check_files(folder, engine.files, largest_hashed=HASHED_AT_OPEN)
    return folder


def _why_none_fits(bundle: Bundle, component: str, backend: Backend) -> str:
    remedy = f"make one for this machine with: latentrt build {bundle.root} --backend {backend}"
    others = [e for e in engines_in(bundle.root) if e.component == component and e.backend == backend]
    foreign = [e for e in others if e.machine != cpu_features()]
    if foreign and len(foreign) == len(others):
        return (
            f"the {backend} engine of {component} was compiled for another CPU "
            f"(got {foreign[0].machine!r}, expected {cpu_features()!r}); {remedy}"
        )
    versions = {e.backend_version for e in others} - {ort_cpu.version()}
    if versions:
        return (
            f"the {backend} engine of {component} was compiled by ONNX Runtime {', '.join(sorted(versions))}, "
            f"installed is {ort_cpu.version()}; {remedy}"
        )
    return f"{str(bundle.root)!r} has no {backend} engine of {component}; {remedy}"
