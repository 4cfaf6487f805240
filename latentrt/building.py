"""Conducts a build: export, engines and the gates between them, into one new folder."""

import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from latentrt.calibration import Drawn, default_prompts, prompts_from_file
from latentrt.engines.backends import COMPILERS
from latentrt.engines.bundle import Bundle, open_bundle, record_files
from latentrt.engines.cache import compile_component, engine_whole
from latentrt.engines.compiler import Compiler, Target
from latentrt.engines.component import Component
from latentrt.engines.errors import BundleError, CheckpointError, OutputError, RequestError
from latentrt.engines.files import locked, staged_directory
from latentrt.engines.manifest import BUNDLE_FILE, BundleManifest, DecisionRecord, ParityRecord, write_manifest
from latentrt.engines.ort_cpu import measure_onnx
from latentrt.engines.precision import Backend, Precision
from latentrt.engines.profile import Profile, profile_from_text
from latentrt.engines.progress import Progress, StageTimer
from latentrt.engines.quantization.recipe import Recipe, recipe_for
from latentrt.engines.schedule_config import PredictionType
from latentrt.engines.seamless import Seamless
from latentrt.quantizing import EXACT, QUALITY, QuantizationSettings, Quantizer

if TYPE_CHECKING:
    from latentrt.export.checkpoint import Checkpoint
    from latentrt.export.offer import Ema

_BUNDLE_ENTRIES = {BUNDLE_FILE, "embeddings", "engines", "onnx", "probes", "tokenizer", "tokenizer_2"}
# Per parameter, by precision
_BYTES = {"fp32": 4, "fp16": 2, "int8": 2}  # of int8 the autoencoder and the text encoders are wider
_UNET = "unet"
_CALIBRATION_STEPS = 20  # at most; a schedule of more visits the same noise levels, only closer together
_Choice = TypeVar("_Choice", bound=StrEnum)


@dataclass(frozen=True, kw_only=True)
class Build:
    """What a build did: the bundle, whether it was up to date already, and seconds per stage."""

    bundle: Bundle
    up_to_date: bool
    seconds: dict[str, float]


def build(
    model: str | Path,
    output: str | Path | None = None,
    *,
    precision: str | Precision | None = None,
    profiles: Sequence[str | Profile] = (),
    backend: str | Backend = Backend.ORT_CPU,
    gpus: Sequence[str] = (),
    workspace_mb: int | None = None,
    seamless: str | Seamless = Seamless.NONE,
    fp32: Sequence[str] = (),
    variant: str | None = None,
    base: str | Path | None = None,
    vae: str | Path | None = None,
    ema: "str | Ema | None" = None,
    family: str | None = None,
    prediction_type: str | PredictionType | None = None,
    prompts: str | Path | None = None,
    quality: float | None = None,
    progress: Progress | None = None,
    decided: Callable[[Mapping[str, DecisionRecord]], None] | None = None,
) -> Build:
    """Builds a bundle from a model, or the engines that an existing bundle lacks on this machine.

    The bundle is written beside ``output`` and renamed when it is complete, so an earlier one stays whole
    until then. A bundle that was built from the same files, for the same profiles and by the same versions
    is kept as it is.

    Args:
        model: a diffusers folder, a single file (``.safetensors``, ``.ckpt``), a folder with a U-Net alone, a hub id,
            ``emoji`` for the embedded model, or a bundle.
        output: the bundle's folder; needed unless ``model`` is a bundle.
        precision: element type of weights and arithmetic: "fp32" (None), "fp16" or "int8". Parts that fp16 cannot hold
            stay in fp32: SDXL's autoencoder, sines of timesteps, and what else ``export/islands.py`` lists. In int8 is
            the U-Net, calibrated by drawing with it; ``model`` may be a bundle in fp32 then.
        profiles: picture sizes, ``"512x512"`` or ``"768x512x2"`` with a batch; none takes the model's own size.
        backend: what the engines are compiled for.
        gpus: GPU architectures such as ``"sm89"``, for ``tensorrt-rtx``: engines are compiled for each of them, and
            no GPU need be there. None compiles for this machine.
        workspace_mb: scratch memory in MB that TensorRT's builder may plan for a layer; None sets no limit.
        seamless: ``"x"``, ``"y"`` or ``"xy"`` makes a model whose pictures wrap around on these axes: copies side by
            side show no seam.
        fp32: components that stay in fp32 whatever the precision, such as ``"vae_decoder"``.
        variant: which of a folder's weights, ``"fp16"`` or another; None takes the plain ones, or the only ones.
        base: a model that supplies what ``model`` lacks.
        vae: an autoencoder in place of the model's own: a folder or a file.
        ema: ``"ema"`` or ``"non-ema"`` where a model has both kinds of weights; None takes what is not averaged of a
            single file, and a folder's plain weights.
        family: a family's name in place of the one that is worked out.
        prediction_type: ``"epsilon"`` or ``"v_prediction"`` in place of the one that is worked out.
        prompts: int8: a text file with a prompt a line to calibrate and to judge with; None takes a list of 32.
        quality: int8: mean PSNR in dB that pictures shall have against those of the fp32 engine, 30 if left out; nodes
            that cost most stay in floating point until it is reached.
        progress: receives the stages.
        decided: receives what was worked out about the model, before the work begins.

    Raises:
        LatentrtError: of the kind that names the reason: CheckpointError, ParityError, BusyError, OutputError.
    """
    timer = StageTimer(progress)
    chosen = [profile if isinstance(profile, Profile) else profile_from_text(profile) for profile in profiles]
    wanted = None if precision is None else _choice(Precision, precision, "precision")
    backend = _choice(Backend, backend, "backend")
    seamless = _choice(Seamless, seamless, "seamless")
    engines = _engines_to_make(backend, gpus, workspace_mb)
    predicts = None if prediction_type is None else _choice(PredictionType, prediction_type, "prediction type")
    about_model = (variant, base, vae, ema, family, predicts)
    int8 = _int8_wishes(wanted, backend, prompts, quality)
    if (Path(model) / BUNDLE_FILE).is_file():
        if about_model != (None,) * len(about_model):
            raise RequestError("got a bundle as the model and options about a model; build from the model with them")
        if int8 is not None and open_bundle(model).manifest.precision is not Precision.INT8:
            return _quantize_bundle(Path(model), output, chosen, engines, seamless, fp32, int8, timer)
        _check_bundle_precision(Path(model), wanted, fp32)
        return _build_engines(Path(model), output, chosen, engines, seamless, timer)
    if output is None:
        raise RequestError("got no output folder, expected one for the bundle; add -o DIR")
    output = Path(output).resolve()  # one lock and one folder, however it is spelled
    if output.exists() and not _replaceable(output):
        raise OutputError(f"{str(output)!r} exists and is no bundle; choose a new folder or remove it")
    from latentrt.export.versions import exporter_versions

    with _export_packages():
        versions = exporter_versions()
        from latentrt.export.offer import Choices, Ema
        from latentrt.export.source import checkpoint_from_model

        choices = Choices(
            variant=variant,
            base=None if base is None else str(base),
            vae=None if vae is None else str(vae),
            ema=None if ema is None else _choice(Ema, ema, "ema"),
            family=family,
            prediction_type=predicts,
        )
        checkpoint = checkpoint_from_model(str(model), choices)
    precision = wanted or Precision.FP32
    kept = _kept_fp32(fp32, precision, checkpoint)
    if not chosen:
        width, height = checkpoint.default_size
        chosen = [Profile(width=width, height=height)]
    _check_profiles(chosen, checkpoint.pixel_multiple)
    settings = None
    if int8 is not None:
        settings = int8.settings(checkpoint.name, checkpoint.family.defaults.num_inference_steps)
    with locked(output):
        existing = _up_to_date(output, checkpoint, versions, precision, kept, chosen, seamless, settings)
        if existing is None:
            _check_space(output, checkpoint.parameters, precision, engines)
        if decided is not None:
            decided(checkpoint.decisions)
        if existing is not None:
            made = _compile_missing(existing, engines, timer)
            return Build(bundle=existing, up_to_date=not made, seconds=timer.seconds)
        with _export_packages():
            from latentrt.export.components import export_components

        def export_into(folder: Path, precision: Precision, kept: Sequence[str], engines: _Engines) -> None:
            with staged_directory(folder) as root:
                manifest = export_components(checkpoint, root, precision, chosen, timer, seamless, kept)
                manifest = _compile_all(root, manifest, engines, timer)
                write_manifest(root / BUNDLE_FILE, manifest)

        if settings is None:
            export_into(output, precision, kept, engines)
        else:
            # What the calibration draws with; it and the calibration outlive a killed build
            work = output.with_name(f".{output.name}.int8")
            source = work / "source.bundle"
            wide = Precision.FP16 if settings.recipe.symmetric else Precision.FP32
            held = (*kept, _UNET) if wide is Precision.FP16 else ()
            if _up_to_date(source, checkpoint, versions, wide, held, chosen, seamless) is None:
                export_into(source, wide, held, _engines_to_make(Backend.ORT_CPU, (), None))
            _quantize(open_bundle(source), output, kept, engines, settings, work, timer)
            shutil.rmtree(work, ignore_errors=True)
    return Build(bundle=open_bundle(output), up_to_date=False, seconds=timer.seconds)


@dataclass(frozen=True, kw_only=True)
class _Int8:
    """What was asked of int8."""

    recipe: Recipe
    prompts: tuple[str, ...] | None
    quality: float

    def settings(self, model: str, steps: int) -> QuantizationSettings:
        """The same for a model whose pictures take so many steps."""
        prompts = self.prompts or default_prompts(model)
        drawn = Drawn(prompts=prompts, steps=min(steps, _CALIBRATION_STEPS))
        return QuantizationSettings(recipe=self.recipe, drawn=drawn, quality=self.quality)


def _int8_wishes(
    precision: Precision | None, backend: Backend, prompts: str | Path | None, quality: float | None
) -> _Int8 | None:
    """What is asked of int8, checked; None for other precisions."""
    if precision is not Precision.INT8:
        given = "prompts" if prompts is not None else "quality" if quality is not None else None
        if given is not None:
            raise RequestError(f"got {given} for a build that is not int8; leave it out, or ask for precision int8")
        return None
    quality = QUALITY if quality is None else quality
    if not 0.0 < quality < EXACT:
        raise RequestError(f"got quality {quality:g} dB, expected above 0 and below {EXACT:g}; change it")
    return _Int8(
        recipe=recipe_for(backend),
        prompts=None if prompts is None else prompts_from_file(Path(prompts)),
        quality=quality,
    )


def _quantize_bundle(
    model: Path,
    output: str | Path | None,
    profiles: Sequence[Profile],
    engines: "_Engines",
    seamless: Seamless,
    fp32: Sequence[str],
    int8: _Int8,
    timer: StageTimer,
) -> Build:
    """Makes an int8 bundle of one in fp32; no checkpoint and no torch are needed."""
    source = open_bundle(model.resolve())
    if output is None or Path(output).resolve() == source.root:
        raise RequestError("got a bundle to make int8 of and no folder for the result; add -o DIR, another one")
    if profiles or fp32 or seamless is not Seamless.NONE:
        raise RequestError(
            "got profiles, fp32 or seamless for a bundle, which has its own; build from the model with them"
        )
    output = Path(output).resolve()
    if output.exists() and not _replaceable(output):
        raise OutputError(f"{str(output)!r} exists and is no bundle; choose a new folder or remove it")
    settings = int8.settings(source.manifest.source.name, source.manifest.defaults.num_inference_steps)
    work = output.with_name(f".{output.name}.int8")
    with locked(output), locked(source.root):
        source.check_all()
        _compile_missing(source, _engines_to_make(Backend.ORT_CPU, (), None), timer)
        _quantize(source, output, source.manifest.kept_fp32, engines, settings, work, timer)
        shutil.rmtree(work, ignore_errors=True)
    return Build(bundle=open_bundle(output), up_to_date=False, seconds=timer.seconds)


def _quantize(
    source: Bundle,
    output: Path,
    kept: Sequence[str],
    engines: "_Engines",
    settings: QuantizationSettings,
    work: Path,
    timer: StageTimer,
) -> None:
    """Writes the bundle at ``output``: the source's files, but its U-Net in int8."""
    old = source.manifest
    unet = old.components[_UNET]
    folder = f"onnx/{Precision.INT8}/{_UNET}"
    quantizer = Quantizer(source, settings, work, timer)
    islands: dict[str, int] = {}

    def finish(graph: Path) -> None:
        if settings.recipe.symmetric:  # what is left in floating point is fp16 on GPUs
            islands.clear()
            islands.update(_halved(graph / "model.onnx", old.family))

    with staged_directory(output) as root:
        record = quantizer.run(root / folder, finish)
        files = {name: row for name, row in old.files.items() if name not in (unet.onnx, unet.weights)}
        for name in files:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source.path(name), root / name)
        written = {f"{folder}/{path.name}" for path in (root / folder).iterdir()}
        weights = next(iter(written - {f"{folder}/model.onnx"}), None)
        component = unet.model_copy(
            update={
                "onnx": f"{folder}/model.onnx",
                "weights": weights,
                "precision": Precision.INT8,
                "islands": islands,
                "quantization": record,
            }
        )
        manifest = old.model_copy(
            update={
                "precision": Precision.INT8,
                "kept_fp32": tuple(kept),
                "components": {**old.components, _UNET: component},
                "files": files | record_files(root, written),
            }
        )
        manifest = _compile_all(root, manifest, engines, timer)
        write_manifest(root / BUNDLE_FILE, manifest)


def _halved(graph: Path, family: str) -> dict[str, int]:
    """Turns what a quantized U-Net computes in fp32 into fp16."""
    with _export_packages():
        from latentrt.export.half import halve_file
        from latentrt.export.islands import islands_of

        return halve_file(graph, islands_of(family, _UNET))


@dataclass(frozen=True, kw_only=True)
class _Engines:
    """The engines to make of every component: one per target."""

    compiler: Compiler
    targets: tuple[Target, ...]


def _engines_to_make(backend: Backend, gpus: Sequence[str], workspace_mb: int | None) -> _Engines:
    """Finds out what can be compiled here, before the minutes that an export takes."""
    if workspace_mb is not None and workspace_mb < 1:
        raise RequestError(f"got a workspace of {workspace_mb} MB, expected at least 1; leave it out for no limit")
    compiler = COMPILERS[backend]
    targets = compiler.targets(gpus, workspace_mb)
    compiler.version()  # refuses where the backend is not installed
    return _Engines(compiler=compiler, targets=targets)


def _choice(kind: type[_Choice], value: str, name: str) -> _Choice:
    if value not in tuple(kind):
        raise RequestError(f"got {name} {str(value)!r}, expected one of {', '.join(kind)}; choose one of these")
    return kind(value)


def _kept_fp32(wanted: Sequence[str], precision: Precision, checkpoint: "Checkpoint") -> tuple[str, ...]:
    """The components that stay in fp32, in a fixed order."""
    components = (*(row.part for row in checkpoint.family.text_encoders), "unet", "vae_encoder", "vae_decoder")
    unknown = [name for name in wanted if name not in components]
    if unknown:
        raise RequestError(f"got fp32 {', '.join(unknown)}, expected of {', '.join(components)}; choose of these")
    if wanted and precision is Precision.FP32:
        raise RequestError("got components to keep in fp32 of a bundle in fp32, expected precision fp16; leave one out")
    if _UNET in wanted and precision is Precision.INT8:
        raise RequestError("got fp32 unet for a bundle in int8, which is the U-Net's precision; leave one out")
    return tuple(name for name in components if name in wanted)


def _check_bundle_precision(root: Path, wanted: Precision | None, fp32: Sequence[str]) -> None:
    """Refuses another precision than a bundle's: its ONNX cannot be had in any other."""
    has = open_bundle(root).manifest.precision
    if wanted not in (None, has) or fp32:
        got = f"precision {wanted}" if wanted not in (None, has) else f"components to keep in fp32 ({', '.join(fp32)})"
        raise RequestError(f"got {got} for a bundle built in {has}; build from the model with what is wanted")


def _replaceable(folder: Path) -> bool:
    """Whether a folder is empty, or holds nothing but a bundle, damaged or not."""
    if not folder.is_dir():
        return False
    return all(path.name in _BUNDLE_ENTRIES for path in folder.iterdir())


@contextmanager
def _export_packages() -> Iterator[None]:
    """Turns a missing package of the exporter into a sentence."""
    try:
        yield
    except ImportError as error:
        raise CheckpointError(
            f"building from a model needs the package {error.name}, which is not installed; install latentrt[export]"
        ) from error


def _check_profiles(profiles: Sequence[Profile], multiple: int) -> None:
    """Refuses sizes that the model's down- and upsampling cannot meet, and sizes named twice."""
    odd = [str(profile) for profile in profiles if profile.width % multiple or profile.height % multiple]
    if odd:
        raise RequestError(
            f"got profile {', '.join(odd)}, expected multiples of {multiple} pixels for this model; round"
        )
    sizes = [(profile.width, profile.height) for profile in profiles]
    if len(set(sizes)) < len(sizes):
        raise RequestError(
            "got a size twice among the profiles, expected each once; keep the one with the larger batch"
        )


def _check_space(output: Path, parameters: int, precision: Precision, engines: _Engines) -> None:
    """Refuses to start where the disk cannot hold the result."""
    parent = next(folder for folder in output.absolute().parents if folder.exists())
    onnx = _BYTES.get(precision, 4)
    # ONNX Runtime's CPU kernels are fp32: weights in fp16 are folded to that as they are packed
    weights = 4 if engines.compiler.backend is Backend.ORT_CPU else onnx
    # Engines are up to 1.4 times as large as their weights
    needed = int((onnx + 1.4 * weights * len(engines.targets)) * parameters)
    free = shutil.disk_usage(parent).free
    if free < needed:
        raise OutputError(
            f"{str(parent)!r} has {free // 2**20} MB free, the bundle needs about {needed // 2**20} MB; "
            "free some space or choose another disk"
        )


def _compile_all(root: Path, manifest: BundleManifest, engines: _Engines, timer: StageTimer) -> BundleManifest:
    """Compiles and gates every component of a new bundle; the figures go into the manifest.

    Where no engine could be run here, the ONNX itself passes the gate.
    """
    bundle = Bundle(root=root, manifest=manifest)
    records = {}
    for name, record in manifest.components.items():
        component = Component(root=root, manifest=manifest, name=name)
        parity = _compile(component, bundle, engines, timer)
        if parity is None:
            with timer.stage(f"{name}: gate the ONNX"):
                parity = measure_onnx(component, bundle.probes(name))
        records[name] = record.model_copy(update={"parity": parity})
    return manifest.model_copy(update={"components": records})


def _compile(component: Component, bundle: Bundle, engines: _Engines, timer: StageTimer) -> ParityRecord | None:
    """Compiles one component for every target; returns the figures of one that could be run here."""
    measured = None
    for target in engines.targets:
        told = f" for {target.machine}" if len(engines.targets) > 1 else ""
        with timer.stage(f"{component.name}: compile{told}"):
            made = compile_component(component, engines.compiler, target, bundle.probes(component.name), timer)
        if made.contents is not None and made.contents.unoptimised:
            warnings.warn(
                f"too little memory is free to optimise {component.name} for {engines.compiler.backend}, so it will "
                "run slower; close other programs and build again",
                stacklevel=2,
            )
        measured = made.parity or measured
    return measured


def _compile_missing(bundle: Bundle, engines: _Engines, timer: StageTimer) -> bool:
    """Adds to a whole bundle the engines that it lacks; says whether there were any."""
    components = [Component(root=bundle.root, manifest=bundle.manifest, name=n) for n in bundle.manifest.components]
    lacking = [
        component
        for component in components
        if not all(engine_whole(component, engines.compiler, target) for target in engines.targets)
    ]
    for component in lacking:
        _compile(component, bundle, engines, timer)
    return bool(lacking)


def _build_engines(
    root: Path,
    output: str | Path | None,
    profiles: Sequence[Profile],
    engines: _Engines,
    seamless: Seamless,
    timer: StageTimer,
) -> Build:
    """Adds to a bundle the engines it lacks here; its portable files stay as they are."""
    root = root.resolve()
    if output is not None and Path(output).resolve() != root:
        raise RequestError(f"got a bundle as the model and output {str(output)!r}, expected no output; leave -o out")
    with locked(root):
        bundle = open_bundle(root)
        unknown = [str(profile) for profile in profiles if profile not in bundle.manifest.profiles]
        if unknown:
            raise RequestError(
                f"got profile {', '.join(unknown)} for a bundle made for "
                f"{', '.join(map(str, bundle.manifest.profiles))}; build from the model with all the profiles"
            )
        if seamless not in (Seamless.NONE, bundle.manifest.seamless):
            raise RequestError(
                f"got seamless {str(seamless)!r} for a bundle built with {str(bundle.manifest.seamless)!r}; "
                "build from the model with the one wanted"
            )
        bundle.check_all()
        made = _compile_missing(bundle, engines, timer)
    return Build(bundle=bundle, up_to_date=not made, seconds=timer.seconds)


def _values(decisions: Mapping[str, DecisionRecord]) -> dict[str, str]:
    """What was decided, however it came about."""
    return {name: decision.value for name, decision in decisions.items()}


def _up_to_date(
    output: Path,
    checkpoint: "Checkpoint",
    versions: dict[str, str],
    precision: Precision,
    kept_fp32: Sequence[str],
    profiles: Sequence[Profile],
    seamless: Seamless,
    int8: QuantizationSettings | None = None,
) -> Bundle | None:
    """The bundle at ``output`` if a build would export the same one again."""
    if not (output / BUNDLE_FILE).is_file():
        return None
    try:
        bundle = open_bundle(output)
        manifest = bundle.manifest
        same = (
            manifest.latentrt == version("latentrt")
            and manifest.exporter == versions
            and manifest.profiles == tuple(profiles)
            and manifest.seamless == seamless
            and manifest.precision == precision
            and manifest.kept_fp32 == tuple(kept_fp32)
            and _values(manifest.source.decisions) == _values(checkpoint.decisions)
            and manifest.source.files == checkpoint.files
            and (int8 is None or int8.made(manifest.components[_UNET].quantization))
        )
        if not same:
            return None
        bundle.check_all()
    except BundleError:
        return None
    return bundle
