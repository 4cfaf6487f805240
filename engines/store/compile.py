"""Compiles one component into its engine, and gates it where it runs here."""

import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from time import perf_counter

from latentrt.engines.backends.compiler import Compiler, Target, runs_here
from latentrt.engines.bundle.checked_files import record_files
from latentrt.engines.bundle.checks.gate import measure
from latentrt.engines.bundle.checks.probes import Probe
from latentrt.engines.bundle.component import Component
from latentrt.engines.bundle.records.component import ParityRecord
from latentrt.engines.bundle.records.manifests.engine_manifest import (
    ENGINE_FILE,
    LEFT_BY_RUNS,
    ContentsRecord,
    EngineManifest,
)
from latentrt.engines.bundle.records.manifests.manifest_file import SCHEMA, write_manifest
from latentrt.engines.files import output_error
from latentrt.engines.progress import Progress
from latentrt.engines.store.key import EngineIdentity
from latentrt.engines.store.store import engine_folder, engine_whole, target_identity

Seen = tuple[ContentsRecord | None, ParityRecord | None]
"""What was seen of an engine as it was compiled, and its figures where it was measured."""


def compile_component(
    component: Component, compiler: Compiler, target: Target, probes: Iterable[Probe], progress: Progress | None = None
) -> EngineManifest:
    """Compiles one component into ``engines/<key>/``; where the target is this machine, it passes its gate first.

    An engine that is there already and whole is kept.

    Raises:
        EngineError: the backend cannot compile it.
        ParityError: the compiled engine misses its gate.
        OutputError: the disk is full or read-only.
    """
    existing = engine_whole(component, compiler, target)
    if existing is not None:
        return existing

    def fill(folder: Path) -> Seen:
        contents = compiler.compile(component, target, folder, progress)
        if not runs_here(compiler, target.machine):
            return contents, None
        model = compiler.open(component, folder, threads=None)
        try:
            chunks = 1 if compiler.profiles(component) else None
            return contents, measure(component, model.engine, probes, largest_chunks=chunks)
        finally:
            model.close()

    return new_engine(component.root, target_identity(component, compiler, target), target.workspace_mb, fill)


def new_engine(
    root: Path, identity: EngineIdentity, workspace_mb: int | None, fill: Callable[[Path], Seen]
) -> EngineManifest:
    """Puts an engine of this identity into a bundle, in place of one that is there.

    The folder is filled under another name and renamed, so a killed compile leaves no half engine.

    Args:
        root: the bundle's folder.
        identity: what the engine is.
        workspace_mb: the limit on scratch memory that it is compiled with.
        fill: writes its files into an empty folder.

    Raises:
        OutputError: the disk is full or read-only.
    """
    folder = engine_folder(root, identity)
    staging = folder.with_name(f".{identity.key}.building")
    try:
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True)
        start = perf_counter()
        contents, parity = fill(staging)
        engine = EngineManifest(
            schema_version=SCHEMA,
            key=identity.key,
            component=identity.component,
            backend=identity.backend,
            backend_version=identity.backend_version,
            precision=identity.precision,
            onnx_sha256=identity.onnx_sha256,
            machine=identity.machine,
            flags=dict(identity.flags),
            shapes=identity.shapes,
            workspace_mb=workspace_mb,
            contents=contents,
            parity=parity,
            seconds=round(perf_counter() - start, 1),
            files=record_files(staging, [path.name for path in staging.iterdir() if path.suffix != LEFT_BY_RUNS]),
        )
        write_manifest(staging / ENGINE_FILE, engine)
        shutil.rmtree(folder, ignore_errors=True)
        os.rename(staging, folder)
    except OSError as error:
        raise output_error(folder, error) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return engine
