"""Whether a bundle is whole, and its engines agree with its recorded runs on this machine."""

from dataclasses import replace
from functools import partial
from pathlib import Path

from latentrt.engines.backends.registry import COMPILERS
from latentrt.engines.bundle.bundle import AnyBundle, folder_and_seal
from latentrt.engines.bundle.checked_files import file_faults, refuse_damaged
from latentrt.engines.bundle.checks.gate import measure
from latentrt.engines.bundle.checks.parity import Parity
from latentrt.engines.bundle.component import Component
from latentrt.engines.bundle.records.manifests.components_manifest import BUNDLE_FILE
from latentrt.engines.bundle.records.manifests.engine_manifest import ENGINE_FILE, EngineManifest
from latentrt.engines.engine import Engine
from latentrt.engines.errors import BundleError
from latentrt.engines.progress import Progress, StageTimer
from latentrt.engines.shapes import Shapes
from latentrt.engines.store.choose import AUTO, chosen_backend
from latentrt.engines.store.components import OpenComponents
from latentrt.engines.store.store import (
    compiled_folder,
    engine_and_seal,
    engine_folders,
    record_parity,
    variants_here,
)


def verify(
    root: Path, *, backend: str = AUTO, threads: int | None = None, progress: Progress | None = None
) -> dict[str, Parity]:
    """Hashes every file, then repeats the recorded runs on this machine's engines.

    They are torch's, but where LoRAs were fused into a bundle (``Reference``).

    Engines whose records had no figures, because they were compiled elsewhere, have them then.

    Args:
        root: the bundle's folder.
        backend: whose engines run; ``"auto"`` takes those that ``latentrt.open`` would take.
        threads: threads of a call on the CPU; None takes one per core.
        progress: receives the stages.

    Returns:
        The worst figures per component, and per plan of it with added inputs (``unet with control``).

    Raises:
        BundleError: files are missing or altered, manifests edited; every one is named.
        EngineError: no engine fits this machine.
        RequestError: an unknown backend or a number of threads below 1.
        ParityError: an engine misses its gate here.
    """
    timer = StageTimer(progress)
    bundle, seal = folder_and_seal(root)
    with timer.stage("files"):
        edited = seal.fault(BUNDLE_FILE)
        faults = [edited] if edited is not None else []
        faults += file_faults(bundle.root, bundle.manifest.files, largest_hashed=None)
        engines, engine_faults = _engines(bundle.root)
        refuse_damaged(bundle.root, [*faults, *engine_faults])
    figures = {}
    with timer.stage("open"):
        chosen = chosen_backend(bundle, backend)
        compiler = COMPILERS[chosen]
        components = OpenComponents(bundle, chosen, threads=threads, hashed=[engine.key for engine in engines])
    try:
        parts = [
            Component(root=bundle.root, manifest=bundle.manifest, name=name) for name in bundle.manifest.components
        ]
        for component in (each for part in parts for each in (part, *variants_here(part, chosen))):
            chunks = 1 if compiler.profiles(component) else None
            key = compiled_folder(component, chosen).name
            with timer.stage(component.label):
                engine_at = partial(_engine_at, components, component)
                parity = measure(component, engine_at, bundle.probes(component.name), largest_chunks=chunks)
            for engine in engines:
                if engine.key == key:
                    record_parity(bundle.root, engine, parity)
            figures[component.label] = parity.parity
    finally:
        components.close()
    return figures


def _engine_at(components: OpenComponents[AnyBundle], component: Component, shapes: Shapes) -> Engine:
    """The component's engine; of one with added inputs that which takes them, though the recorded runs add nothing."""
    return components.engine(component.name, replace(shapes, added=component.added))


def _engines(root: Path) -> tuple[list[EngineManifest], list[str]]:
    """All engines of a bundle, and what is wrong with their files and records."""
    engines, faults = [], []
    for folder in engine_folders(root):
        try:
            engine, seal = engine_and_seal(folder)
        except BundleError as error:
            faults.append(str(error))
            continue
        edited = seal.fault(f"engines/{folder.name}/{ENGINE_FILE}")
        faults += [edited] if edited is not None else []
        faults += [f"engines/{folder.name}/{fault}" for fault in file_faults(folder, engine.files, largest_hashed=None)]
        engines.append(engine)
    return engines, faults
