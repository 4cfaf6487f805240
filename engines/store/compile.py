"""Compiles one component into its engine, and gates it where it runs here."""

import os
import shutil
from collections.abc import Iterable

from latentrt.engines.backends.compiler import Compiler, Target, runs_here
from latentrt.engines.bundle.checked_files import record_files
from latentrt.engines.bundle.component import Component
from latentrt.engines.bundle.gate import measure
from latentrt.engines.bundle.probes import Probe
from latentrt.engines.bundle.records.engine_manifest import ENGINE_FILE, EngineManifest
from latentrt.engines.bundle.records.manifest_file import SCHEMA, write_manifest
from latentrt.engines.files import output_error
from latentrt.engines.progress import Progress
from latentrt.engines.store.store import (
    engine_folder,
    engine_whole,
    identity_of,
)


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
