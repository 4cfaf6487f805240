"""Makes a bundle in eight bits, int8 or fp8, of one whose U-Net is in fp32."""

import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from latentrt.building.compiling import EnginesToMake, compile_all, compile_missing
from latentrt.building.conversions.source import check_unchanged, compile_for_cpu
from latentrt.building.destination import existing_bundle
from latentrt.building.packages import export_packages
from latentrt.engines.bundle.bundle import Bundle, open_bundle
from latentrt.engines.bundle.checked_files import record_files
from latentrt.engines.bundle.component import Component
from latentrt.engines.bundle.kinds import UNET
from latentrt.engines.bundle.records.manifests.components_manifest import BUNDLE_FILE
from latentrt.engines.bundle.records.manifests.manifest import BundleManifest
from latentrt.engines.bundle.records.manifests.manifest_file import write_manifest
from latentrt.engines.bundle.records.named_weights import write_named_weights
from latentrt.engines.bundle.records.recipe import Recipe
from latentrt.engines.errors import RequestError
from latentrt.engines.files import locked, staged_directory
from latentrt.engines.graphs.quantization.named_weights import weights_after_quantization
from latentrt.engines.progress import StageTimer
from latentrt.quantization.quantization import quantization_of_bundle
from latentrt.quantization.quantizer import QuantizedComponent, quantized_components
from latentrt.quantization.settings import QuantizationRequest, QuantizationSettings
from latentrt.quantization.subjects import drawn_model_of


def _folder(settings: QuantizationSettings) -> str:
    """Where the graphs lie in a bundle."""
    return f"onnx/{settings.precision}"


def quantize_bundle(
    source: Bundle,
    destination: Path,
    engines: EnginesToMake,
    asked: QuantizationRequest,
    timer: StageTimer,
    *,
    kept_fp32: Sequence[str] = (),
) -> tuple[Bundle, bool]:
    """Makes a bundle in eight bits of another, unless it is there already; no checkpoint and no torch are needed.

    Args:
        source: the other bundle, with its U-Net in fp32.
        destination: where to write.
        engines: what is compiled of the result.
        asked: what was asked for.
        timer: receives the stages.
        kept_fp32: components that stay in fp32, beside those that the source keeps.

    Returns:
        The bundle, and whether it was there already and lacked nothing.

    Raises:
        RequestError: the destination is the source, or the U-Net is not fp32.
        ParityError: the quality asked for is not reached.
        BundleError: the source is damaged, or was replaced meanwhile.
    """
    if destination == source.root:
        raise RequestError(
            f"got {str(destination)!r} as the bundle and as the result; choose another folder for the result"
        )
    old = source.manifest
    # Of a bundle in fp16 but for its U-Net, the U-Net is what gets eight bits
    kept_fp32 = tuple(name for name in old.needed if name in kept_fp32 or (name in old.kept_fp32 and name != UNET))
    settings = asked.settings(drawn_model_of(old))
    with locked(destination):
        source.check_all()
        existing = existing_bundle(destination, lambda made: _made_of(source, made, settings, kept_fp32))
        if existing is not None:
            return existing, not compile_missing(existing, engines, timer)
        compile_for_cpu(source, timer)
        with work_folder(destination, settings) as work:
            write_quantized_bundle(source, destination, kept_fp32, engines, settings, work, timer)
    return open_bundle(destination), False


def _made_of(source: Bundle, made: BundleManifest, settings: QuantizationSettings, kept_fp32: Sequence[str]) -> bool:
    """Whether a bundle was made of the source by these settings."""
    old, unet = source.manifest, made.components[UNET].quantization
    quantized = {name for name, record in made.components.items() if record.quantization is not None}
    shared = {name: file for name, file in old.files.items() if name not in graph_files(old, quantized)}
    return (
        settings.made(unet)
        and unet is not None
        and made.components[UNET].remainders is not None
        and unet.source_sha256 == Component(root=source.root, manifest=old, name=UNET).onnx_sha256
        and old.latentrt == made.latentrt
        and old.exporter == made.exporter
        and made.kept_fp32 == tuple(kept_fp32)
        and shared.items() <= made.files.items()
    )


@contextmanager
def work_folder(destination: Path, settings: QuantizationSettings) -> Iterator[Path]:
    """Where that lies which outlives a killed build; if the block succeeds it is removed, unless others share it."""
    work = settings.shared or destination.with_name(f".{destination.name}.{settings.precision}")
    yield work
    if settings.shared is None:
        shutil.rmtree(work, ignore_errors=True)


def write_quantized_bundle(
    source: Bundle,
    destination: Path,
    kept_fp32: Sequence[str],
    engines: EnginesToMake,
    settings: QuantizationSettings,
    work: Path,
    timer: StageTimer,
    *,
    judged_against: Bundle | None = None,
) -> None:
    """Quantizes, compiles and gates; puts the bundle at ``destination`` in one rename.

    Args:
        source: what becomes int8, with engines for the CPU.
        destination: where to write.
        kept_fp32: components that stay as they are.
        engines: what is compiled of the result.
        settings: what it must reach.
        work: a folder for results that outlive the process.
        timer: receives the stages.
        judged_against: the bundle that draws what int8 pictures are compared with; None for the source.

    Raises:
        CheckpointError: a package is missing.
        ParityError: the quality asked for is not reached, or an engine misses its gate.
        RequestError: the U-Net is not fp32, or a prompt has no tokens.
    """
    recipe = settings.recipe
    _check_packages(recipe)
    quantization = quantization_of_bundle(source, settings, kept_fp32, work, timer, judged_against=judged_against)
    islands: dict[str, int] = {}

    def finish(folder: Path) -> None:
        if recipe.symmetric:  # what is left in floating point is fp16 on GPUs
            islands.clear()
            islands.update(_halve(folder / "model.onnx", source.manifest.family))

    with staged_directory(destination) as root:
        quantized = quantized_components(quantization, root / _folder(settings), finish)
        manifest = _with_eight_bits(source, root, settings, quantized, islands)
        manifest = manifest.model_copy(update={"kept_fp32": tuple(kept_fp32)})
        manifest = compile_all(root, manifest, engines, timer)
        check_unchanged(source)
        if judged_against is not None:
            check_unchanged(judged_against)
        write_manifest(root / BUNDLE_FILE, manifest)


def _with_eight_bits(
    source: Bundle,
    root: Path,
    settings: QuantizationSettings,
    quantized: Mapping[str, QuantizedComponent],
    islands: Mapping[str, int],
) -> BundleManifest:
    """Copies the source's files to ``root``, but for the graphs that got eight bits there; returns the new manifest."""
    old, folder = source.manifest, _folder(settings)
    replaced = graph_files(old, quantized)
    files = {name: file for name, file in old.files.items() if name not in replaced}
    for name in files:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source.path(name), root / name)
    components = dict(old.components)
    for name, part in quantized.items():
        graph, named_weights = f"{folder}/{name}/model.onnx", old.components[name].named_weights
        remainders = f"weights/{name}.remainders"
        weights = weights_after_quantization(
            source.weights(name),
            source.path(old.components[name].onnx),
            root / graph,
            root,
            part.inputs,
            part.record.recipe,
            root / remainders,
        )
        write_named_weights(root / named_weights, weights)
        written = {f"{folder}/{name}/{path.name}" for path in (root / folder / name).iterdir()}
        files |= record_files(root, {*written, named_weights, remainders})
        components[name] = old.components[name].model_copy(
            update={
                "onnx": graph,
                "weights": next(iter(written - {graph}), None),
                "precision": settings.precision,
                "islands": dict(islands),
                "quantization": part.record,
                "remainders": remainders,
            }
        )
    return old.model_copy(update={"precision": settings.precision, "components": components, "files": files})


def graph_files(manifest: BundleManifest, components: Collection[str]) -> set[str]:
    """The files that hold some components' graphs, weights, and the names of the weights."""
    records = [manifest.components[name] for name in components]
    return {name for record in records for name in (record.onnx, record.weights, record.named_weights) if name}


def _check_packages(recipe: Recipe) -> None:
    """Finds out before the hours of calibration whether the graph can be written.

    Raises:
        CheckpointError: a package is missing.
    """
    with export_packages():
        import onnxruntime.quantization  # noqa: F401

        if recipe.symmetric:
            import latentrt.engines.graphs.half  # noqa: F401


def _halve(graph: Path, family: str) -> dict[str, int]:
    """Turns what a quantized U-Net computes in fp32 into fp16; returns the number of nodes that stay, by reason."""
    with export_packages():
        from latentrt.engines.graphs.half import halve_file
        from latentrt.engines.graphs.islands import islands_of

        return halve_file(graph, islands_of(family, UNET))
