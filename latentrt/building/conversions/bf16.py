"""Makes a bf16 bundle of one in fp32."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from latentrt.bf16.conversion import convert, graph_files
from latentrt.bf16.judge import judged, judging_of, source_digest
from latentrt.bf16.settings import Bf16Request, PictureSettings
from latentrt.building.compiling import EnginesToMake, compile_all, compile_missing
from latentrt.building.conversions.source import check_unchanged, compile_for_cpu
from latentrt.building.destination import check_space, existing_bundle
from latentrt.building.packages import export_packages
from latentrt.engines.backends.compiler import runs_here
from latentrt.engines.bundle.bundle import Bundle, open_bundle
from latentrt.engines.bundle.records.manifests.components_manifest import BUNDLE_FILE
from latentrt.engines.bundle.records.manifests.manifest import BundleManifest
from latentrt.engines.bundle.records.manifests.manifest_file import write_manifest
from latentrt.engines.errors import RequestError
from latentrt.engines.files import locked, staged_directory
from latentrt.engines.precision import Backend, Precision
from latentrt.engines.progress import StageTimer
from latentrt.engines.store.store import engines_in
from latentrt.quantization.calibration import check_prompts
from latentrt.quantization.subjects import drawn_model_of

_NAMES = frozenset({"bf16", "bfloat16"})  # what backends call it


def bf16_bundle_of(
    source: Bundle,
    destination: Path,
    engines: EnginesToMake,
    bf16: Bf16Request,
    timer: StageTimer,
    *,
    kept_fp32: Sequence[str] = (),
) -> tuple[Bundle, bool]:
    """Makes a bf16 bundle of another, unless it is there already; no checkpoint and no torch are needed.

    Args:
        source: the other bundle, in fp32.
        destination: where to write.
        engines: what is compiled of the result.
        bf16: what was asked for.
        timer: receives the stages.
        kept_fp32: components that stay in fp32.

    Returns:
        The bundle, and whether it was there already and lacked nothing.

    Raises:
        RequestError: the destination is the source, or the source is not in fp32.
        ParityError: the quality asked for is not reached, or an engine misses its gate.
        BundleError: the source is damaged, or was replaced meanwhile.
    """
    if destination == source.root:
        raise RequestError(
            f"got {str(destination)!r} as the bundle and as the result; choose another folder for the result"
        )
    old = source.manifest
    if old.precision is not Precision.FP32:
        raise RequestError(
            f"got a bundle in {old.precision}, expected one in fp32 to make bf16 of; build from the model"
        )
    settings = bf16.settings(drawn_model_of(old))
    with locked(destination):
        source.check_all()
        existing = existing_bundle(destination, lambda made: _made_of(source, made, settings, kept_fp32))
        if existing is not None:
            return existing, not compile_missing(existing, engines, timer)
        # As large as in fp16; a build from a model needs room for the bundle in fp32 besides, and that is here
        check_space(destination, sum(row.parameters for row in old.components.values()), Precision.FP16, engines)
        compile_for_cpu(source, timer)
        work = work_folder(destination)
        write_bf16_bundle(source, destination, kept_fp32, engines, settings, work, timer)
        shutil.rmtree(work, ignore_errors=True)
    return open_bundle(destination), False


def work_folder(destination: Path) -> Path:
    """Where that lies which outlives a killed build, until the bundle is there."""
    return destination.with_name(f".{destination.name}.bf16")


def write_bf16_bundle(
    source: Bundle,
    destination: Path,
    kept_fp32: Sequence[str],
    engines: EnginesToMake,
    settings: PictureSettings,
    work: Path,
    timer: StageTimer,
) -> None:
    """Converts, compiles, gates and judges; puts the bundle at ``destination`` in one rename.

    Raises:
        CheckpointError: a package is missing.
        ParityError: the quality asked for is not reached, or an engine misses its gate.
        RequestError: a prompt has no tokens.
    """
    check_prompts(source, settings.calibration.prompts)
    with staged_directory(destination) as root:
        with export_packages():
            manifest = _converted(source, root, kept_fp32, timer)
        manifest = compile_all(root, manifest, engines, timer)
        judging = judging_of(source, settings, work, timer)
        made = Bundle(root=root, manifest=manifest)
        pictures = judged(judging, made, _computing(engines, made))
        check_unchanged(source)
        write_manifest(root / BUNDLE_FILE, manifest.model_copy(update={"pictures": pictures}))


def _converted(source: Bundle, root: Path, kept_fp32: Sequence[str], timer: StageTimer) -> BundleManifest:
    """Writes the bundle's portable files to ``root``."""
    old = source.manifest
    converted = convert(source, root, kept_fp32, timer)
    replaced = {*converted.files, *graph_files({name: old.components[name] for name in converted.components})}
    files = {name: row for name, row in old.files.items() if name not in replaced}
    for name in files:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source.path(name), root / name)
    return old.model_copy(
        update={
            "precision": Precision.BF16,
            "kept_fp32": tuple(kept_fp32),
            "components": {**old.components, **converted.components},
            "files": {**files, **converted.files},
        }
    )


def _computing(engines: EnginesToMake, made: Bundle) -> Backend | None:
    """The backend of the engines that were made, if they compute bf16 on this machine."""
    compiler = engines.compiler
    here = [
        engine
        for engine in engines_in(made.root)
        if engine.backend is compiler.backend and runs_here(compiler, engine.machine)
    ]
    # OpenVINO takes a graph in bf16 on every CPU, and computes it in fp32 where the CPU has no bf16
    layers = [kinds for engine in here if engine.contents is not None for kinds in engine.contents.layers.values()]
    return compiler.backend if any(_NAMES & kinds.keys() for kinds in layers) else None


def _made_of(source: Bundle, made: BundleManifest, settings: PictureSettings, kept_fp32: Sequence[str]) -> bool:
    """Whether a bundle was made of the source by these settings."""
    old = source.manifest
    return (
        settings.made(made.pictures)
        and made.pictures is not None
        and made.pictures.source_sha256 == source_digest(source)
        and made.precision is Precision.BF16
        and old.latentrt == made.latentrt
        and old.exporter == made.exporter
        and made.kept_fp32 == tuple(kept_fp32)
        and old.schedule == made.schedule
        and old.defaults == made.defaults
    )
