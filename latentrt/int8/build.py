"""int8 bundles: what may be asked of them, and how one is made of a bundle whose U-Net is in fp32."""

import shutil
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from latentrt.building.compiling import EnginesToMake, compile_all, compile_missing, engines_to_make
from latentrt.building.packages import export_packages
from latentrt.engines.bundle.bundle import Bundle, open_bundle
from latentrt.engines.bundle.checked_files import record_files
from latentrt.engines.bundle.component import Component
from latentrt.engines.bundle.kinds import UNET
from latentrt.engines.bundle.manifest import BUNDLE_FILE, BundleManifest
from latentrt.engines.bundle.manifest_file import write_manifest
from latentrt.engines.bundle.weights import write_named_weights
from latentrt.engines.errors import BundleError, RequestError
from latentrt.engines.files import locked, staged_directory
from latentrt.engines.graphs.quantization.named_weights import weights_after_quantization
from latentrt.engines.graphs.quantization.recipe import Recipe, recipe_for
from latentrt.engines.precision import Backend, Precision
from latentrt.engines.progress import StageTimer
from latentrt.int8.calibration import Drawn, default_prompts, prompts_from_file
from latentrt.int8.quantizer import (
    EFFORT,
    EXACT,
    QUALITY,
    Effort,
    QuantizationSettings,
    Quantizer,
)


@dataclass(frozen=True, kw_only=True)
class Int8Wishes:
    """What was asked of int8."""

    recipe: Recipe
    prompts: tuple[str, ...] | None
    quality: float
    effort: Effort

    def settings(self, model: str, steps: int) -> QuantizationSettings:
        """The same for a model whose pictures take so many steps."""
        prompts = self.prompts or default_prompts(model)
        drawn = Drawn(prompts=prompts, steps=min(steps, self.effort.steps))
        return QuantizationSettings(recipe=self.recipe, drawn=drawn, effort=self.effort, quality=self.quality)


def int8_wishes(
    precision: Precision | None, backend: Backend, prompts: str | Path | None, quality: float | None
) -> Int8Wishes | None:
    """What is asked of int8, checked; None for other precisions."""
    if precision is not Precision.INT8:
        given = "prompts" if prompts is not None else "quality" if quality is not None else None
        if given is not None:
            raise RequestError(f"got {given} for a build that is not int8; leave it out, or ask for precision int8")
        return None
    quality = QUALITY if quality is None else quality
    if not 0.0 < quality < EXACT:
        raise RequestError(f"got quality {quality:g} dB, expected above 0 and below {EXACT:g}; change it")
    return Int8Wishes(
        recipe=recipe_for(backend),
        prompts=None if prompts is None else prompts_from_file(Path(prompts)),
        quality=quality,
        effort=EFFORT,
    )


def quantize_bundle(
    model: Path,
    output: Path,
    engines: EnginesToMake,
    int8: Int8Wishes,
    timer: StageTimer,
    *,
    kept: tuple[str, ...] = (),
) -> tuple[Bundle, bool]:
    """Makes an int8 bundle of one in fp32; no checkpoint and no torch are needed.

    Args:
        model: the bundle in fp32.
        output: where to write.
        engines: what is compiled of the result.
        int8: what was asked for.
        timer: receives the stages.
        kept: components that stay in fp32, beside those of the bundle's own that did.

    Returns:
        The bundle, and whether it was there already and lacked nothing.

    Raises:
        RequestError: the two are the same folder, or the U-Net is not fp32.
        ParityError: the quality asked for is not reached.
    """
    source = open_bundle(model.resolve())
    if output == source.root:
        raise RequestError(f"got {str(output)!r} as the bundle and as the result; choose another folder for the result")
    kept = tuple(
        name
        for name in source.manifest.needed
        if name in kept or (name in source.manifest.kept_fp32 and name != UNET)  # a bundle in fp16 but for its U-Net
    )
    settings = int8.settings(source.manifest.source.name, source.manifest.defaults.num_inference_steps)
    work = work_folder(output)
    with locked(output), locked(source.root):
        source.check_all()
        made = _made(source, output, settings, kept)
        if made is not None:
            return made, not compile_missing(made, engines, timer)
        compile_missing(source, engines_to_make(Backend.ORT_CPU, (), None), timer)
        quantize(source, output, kept, engines, settings, work, timer)
        shutil.rmtree(work, ignore_errors=True)
    return open_bundle(output), False


def _made(source: Bundle, output: Path, settings: QuantizationSettings, kept: tuple[str, ...]) -> Bundle | None:
    """The bundle at ``output`` if it was made of the source as it would be again."""
    try:
        bundle = open_bundle(output)
        old, new = source.manifest, bundle.manifest
        quantized = {name for name, record in new.components.items() if record.quantization is not None}
        shared = {name: file for name, file in old.files.items() if name not in _graphs(old, quantized)}
        record = new.components[UNET].quantization
        same = (
            settings.made(record)
            and record is not None
            and record.source_sha256 == Component(root=source.root, manifest=old, name=UNET).onnx_sha256
            and old.latentrt == new.latentrt
            and old.exporter == new.exporter
            and new.kept_fp32 == kept
            and shared.items() <= new.files.items()
        )
        if same:
            bundle.check_all()
    except BundleError:
        return None
    return bundle if same else None


def _graphs(manifest: BundleManifest, components: Collection[str]) -> set[str]:
    """The files that hold some components' graphs and weights, and the names of these."""
    parts = [manifest.components[name] for name in components]
    return {name for part in parts for name in (part.onnx, part.weights, part.named_weights) if name}


def work_folder(output: Path) -> Path:
    """Where what outlives a killed build lies until the bundle is there."""
    return output.with_name(f".{output.name}.int8")


def quantize(
    source: Bundle,
    output: Path,
    kept: Sequence[str],
    engines: EnginesToMake,
    settings: QuantizationSettings,
    work: Path,
    timer: StageTimer,
) -> None:
    """Writes the bundle at ``output``: the source's files, but what the recipe makes int8."""
    old = source.manifest
    folder = f"onnx/{Precision.INT8}"
    _check_packages(settings.recipe)
    quantizer = Quantizer(source, settings, kept, work, timer)
    islands: dict[str, int] = {}

    def finish(graph: Path) -> None:
        if settings.recipe.symmetric:  # what is left in floating point is fp16 on GPUs
            islands.clear()
            islands.update(_halved(graph / "model.onnx", old.family))

    with staged_directory(output) as root:
        records = quantizer.run(root / folder, finish)
        replaced = _graphs(old, records)
        files = {name: row for name, row in old.files.items() if name not in replaced}
        for name in files:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source.path(name), root / name)
        components = dict(old.components)
        for name, record in records.items():
            graph, named = f"{folder}/{name}/model.onnx", old.components[name].named_weights
            weights = weights_after_quantization(
                source.weights(name), source.path(old.components[name].onnx), root / graph, root
            )
            write_named_weights(root / named, weights)
            written = {f"{folder}/{name}/{path.name}" for path in (root / folder / name).iterdir()}
            files |= record_files(root, {*written, named})
            components[name] = old.components[name].model_copy(
                update={
                    "onnx": graph,
                    "weights": next(iter(written - {graph}), None),
                    "precision": Precision.INT8,
                    "islands": islands,
                    "quantization": record,
                }
            )
        manifest = old.model_copy(
            update={
                "precision": Precision.INT8,
                "kept_fp32": tuple(kept),
                "components": components,
                "files": files,
            }
        )
        manifest = compile_all(root, manifest, engines, timer)
        write_manifest(root / BUNDLE_FILE, manifest)


def _check_packages(recipe: Recipe) -> None:
    """Finds out before the hours of calibration whether the graph can be written.

    Raises:
        CheckpointError: a package is missing.
    """
    with export_packages():
        import onnxruntime.quantization  # noqa: F401

        if recipe.symmetric:
            import latentrt.engines.graphs.half  # noqa: F401


def _halved(graph: Path, family: str) -> dict[str, int]:
    """Turns what a quantized U-Net computes in fp32 into fp16."""
    with export_packages():
        from latentrt.engines.graphs.half import halve_file
        from latentrt.engines.graphs.islands import islands_of

        return halve_file(graph, islands_of(family, UNET))
