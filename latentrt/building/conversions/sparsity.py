"""Makes a bundle of another with zeros among the U-Net's weights."""

import shutil
import warnings
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from latentrt.building.compiling import EnginesToMake, compile_all, compile_missing, engines_to_make
from latentrt.building.conversions.fusing import copy_files, with_changes
from latentrt.building.conversions.quantization import graph_files, write_quantized_bundle
from latentrt.building.conversions.source import check_unchanged, compile_for_cpu
from latentrt.building.destination import existing_bundle
from latentrt.building.packages import export_packages
from latentrt.engines.bundle.bundle import Bundle, open_bundle
from latentrt.engines.bundle.component import Component
from latentrt.engines.bundle.kinds import UNET
from latentrt.engines.bundle.records.manifests.components_manifest import BUNDLE_FILE
from latentrt.engines.bundle.records.manifests.manifest import BundleManifest
from latentrt.engines.bundle.records.manifests.manifest_file import write_manifest
from latentrt.engines.errors import BundleError, RequestError
from latentrt.engines.files import locked, staged_directory
from latentrt.engines.precision import SKIPS_ZEROS, Backend
from latentrt.engines.progress import StageTimer
from latentrt.quantization.settings import QuantizationRequest, QuantizationSettings
from latentrt.quantization.subjects import drawn_model_of
from latentrt.sparsity.pruner import PrunedUnet, pruned_unet
from latentrt.sparsity.pruning import check_dense, pruning_of_bundle
from latentrt.sparsity.settings import SparsityRequest, SparsitySettings


def prune_bundle(
    source: Bundle,
    destination: Path,
    engines: EnginesToMake,
    sparsity: SparsityRequest,
    eight_bits: QuantizationRequest | None,
    timer: StageTimer,
    *,
    kept_fp32: Sequence[str] = (),
) -> tuple[Bundle, bool]:
    """Makes a pruned bundle of another, in eight bits where that is asked; no checkpoint and no torch are needed.

    Args:
        source: the other bundle.
        destination: where to write.
        engines: what is compiled of the result.
        sparsity: what was asked of pruning.
        eight_bits: what was asked of int8 or fp8, None for the source's precision.
        timer: receives the stages.
        kept_fp32: components that stay in fp32 where the rest gets eight bits, beside those that the source keeps.

    Returns:
        The bundle, and whether it was there already and lacked nothing.

    Raises:
        RequestError: the destination is the source, or the source is pruned or in a precision that is not pruned.
        ParityError: the quality asked for is not reached, or an engine misses its gate.
        BundleError: the source is damaged, or was replaced meanwhile.
    """
    if destination == source.root:
        raise RequestError(
            f"got {str(destination)!r} as the bundle and as the result; choose another folder for the result"
        )
    check_dense(source)
    old, model = source.manifest, drawn_model_of(source.manifest)
    settings, quantization = sparsity.settings(model), None if eight_bits is None else eight_bits.settings(model)
    if quantization is None:
        kept_fp32 = old.kept_fp32
    else:  # of a bundle in fp16 but for its U-Net, the U-Net is what gets eight bits
        settings = settings.leaving_room()
        kept_fp32 = tuple(name for name in old.needed if name in kept_fp32 or (name in old.kept_fp32 and name != UNET))
    with locked(destination):
        source.check_all()
        existing = existing_bundle(destination, lambda made: _made_of(source, made, settings, quantization, kept_fp32))
        if existing is not None:
            return existing, not compile_missing(existing, engines, timer)
        compile_for_cpu(source, timer)
        work = work_folder(destination)
        write_sparse_bundle(source, destination, kept_fp32, engines, settings, quantization, work, timer)
        shutil.rmtree(work, ignore_errors=True)
    return open_bundle(destination), False


def work_folder(destination: Path) -> Path:
    """Where that lies which outlives a killed build, until the bundle is there."""
    return destination.with_name(f".{destination.name}.sparse")


def write_sparse_bundle(
    source: Bundle,
    destination: Path,
    kept_fp32: Sequence[str],
    engines: EnginesToMake,
    settings: SparsitySettings,
    quantization: QuantizationSettings | None,
    work: Path,
    timer: StageTimer,
) -> None:
    """Prunes, compiles and gates, or quantizes what was pruned; puts the bundle at ``destination`` in one rename.

    Pictures in eight bits are judged by those of the source, with all its weights.

    Raises:
        CheckpointError: a package is missing.
        ParityError: the quality asked for is not reached, or an engine misses its gate.
        RequestError: a source that cannot be pruned, or a prompt without tokens.
    """
    with export_packages():
        import onnx_ir  # noqa: F401  # before the hours of calibration
    pruned = pruned_unet(pruning_of_bundle(source, settings, work, timer))
    if quantization is None:
        _write(source, destination, pruned, engines, timer)
    else:
        between = _between(source, work / "pruned.bundle", pruned, settings, timer)
        write_quantized_bundle(
            between, destination, kept_fp32, engines, quantization, work, timer, judged_against=source
        )
    if engines.compiler.backend not in SKIPS_ZEROS:
        warnings.warn(
            f"zeros among the weights make no call faster on {engines.compiler.backend}, and no file smaller; build "
            f"for {' or '.join(SKIPS_ZEROS)}, or leave --sparsity out",
            stacklevel=2,
        )


def _write(source: Bundle, destination: Path, pruned: PrunedUnet, engines: EnginesToMake, timer: StageTimer) -> None:
    old = source.manifest
    record = old.components[UNET].model_copy(update={"sparsity": pruned.record})
    made = old.model_copy(update={"components": {**old.components, UNET: record}, "pictures": None})
    with staged_directory(destination) as root:
        copy_files(source, root)
        made = with_changes(source, made, root, {UNET: pruned.changes}, timer)
        made = compile_all(root, made, engines, timer)
        check_unchanged(source)
        write_manifest(root / BUNDLE_FILE, made)


def _between(source: Bundle, folder: Path, pruned: PrunedUnet, settings: SparsitySettings, timer: StageTimer) -> Bundle:
    """The pruned bundle that eight bits are made of, with engines for this CPU; a killed build's is taken again."""
    cpu = engines_to_make(Backend.ORT_CPU, (), None)
    with suppress(BundleError):
        bundle = open_bundle(folder)
        made = bundle.manifest
        alike = _made_of(source, made, settings, None, source.manifest.kept_fp32)
        if alike and made.components[UNET].sparsity == pruned.record:
            bundle.check_all()
            compile_missing(bundle, cpu, timer)
            return bundle
    _write(source, folder, pruned, cpu, timer)
    return open_bundle(folder)


def _made_of(
    source: Bundle,
    made: BundleManifest,
    settings: SparsitySettings,
    quantization: QuantizationSettings | None,
    kept_fp32: Sequence[str],
) -> bool:
    """Whether a bundle was made of the source by these settings."""
    old, unet = source.manifest, made.components[UNET]
    if quantization is None:
        rounded = unet.quantization is None and made.precision is old.precision
    else:
        rounded = quantization.made(unet.quantization)
    changed = {name for name, record in made.components.items() if record.quantization or record.sparsity}
    replaced = {*graph_files(old, changed), old.components[UNET].probes}
    shared = {name: file for name, file in old.files.items() if name not in replaced}
    return (
        rounded
        and settings.made(unet.sparsity)
        and unet.sparsity is not None
        and unet.sparsity.source_sha256 == Component(root=source.root, manifest=old, name=UNET).onnx_sha256
        and old.latentrt == made.latentrt
        and old.exporter == made.exporter
        and made.kept_fp32 == tuple(kept_fp32)
        and shared.items() <= made.files.items()
    )
