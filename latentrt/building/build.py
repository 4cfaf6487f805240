"""Conducts a build: export, engines and the gates between them, into one new folder."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from latentrt.building.compiling import EnginesToMake, compile_all, compile_missing, engines_to_make
from latentrt.building.packages import export_packages
from latentrt.engines.bundle.bundle import Bundle, open_bundle
from latentrt.engines.bundle.kinds import UNET, VAE_DECODER, VAE_ENCODER
from latentrt.engines.bundle.manifest import BUNDLE_FILE, DecisionRecord
from latentrt.engines.bundle.manifest_file import write_manifest
from latentrt.engines.bundle.schedule_config import PredictionType
from latentrt.engines.bundle.seamless import Seamless
from latentrt.engines.errors import BundleError, OutputError, RequestError
from latentrt.engines.files import locked, staged_directory
from latentrt.engines.precision import Backend, Precision
from latentrt.engines.progress import Progress, StageTimer
from latentrt.engines.shapes import Profile, profile_from_text
from latentrt.int8.build import int8_wishes, quantize, quantize_bundle, work_folder
from latentrt.int8.quantizer import QuantizationSettings

if TYPE_CHECKING:
    from latentrt.export.sources.checkpoint import Checkpoint
    from latentrt.export.sources.partial_model import Ema

_BUNDLE_ENTRIES = {BUNDLE_FILE, "embeddings", "engines", "onnx", "probes", "tokenizer", "tokenizer_2", "weights"}
# Per parameter, by precision
_BYTES = {"fp32": 4, "fp16": 2, "int8": 2}  # of int8 the autoencoder and the text encoders are wider
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
            stay in fp32: SDXL's autoencoder, sines of timesteps, and what else ``export/islands.py`` lists. In int8 are
            the U-Net and, for CPUs, the VAE decoder, calibrated by drawing with them; ``model`` may be a bundle in fp32
            then.
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
    int8 = int8_wishes(wanted, backend, prompts, quality)
    engines = engines_to_make(backend, gpus, workspace_mb)
    predicts = None if prediction_type is None else _choice(PredictionType, prediction_type, "prediction type")
    about_model = (variant, base, vae, ema, family, predicts)
    if (Path(model) / BUNDLE_FILE).is_file():
        if about_model != (None,) * len(about_model):
            raise RequestError("got a bundle as the model and options about a model; build from the model with them")
        if int8 is not None and open_bundle(model).manifest.precision is not Precision.INT8:
            if chosen or seamless is not Seamless.NONE:
                raise RequestError(
                    "got profiles or seamless for a bundle, which has its own; build from the model with them"
                )
            kept = _kept_fp32(fp32, wanted, open_bundle(model).manifest.needed)
            destination = _destination(output)
            bundle, whole = quantize_bundle(Path(model), destination, engines, int8, timer, kept=kept)
            return Build(bundle=bundle, up_to_date=whole, seconds=timer.seconds)
        if prompts is not None or quality is not None:
            raise RequestError(
                "got prompts or quality for a bundle that is in int8 already; build from the model or from its bundle "
                "in fp32 with them"
            )
        _check_bundle_precision(Path(model), wanted, fp32)
        return _build_engines(Path(model), output, chosen, engines, seamless, timer)
    output = _destination(output)
    from latentrt.export.tracing.versions import exporter_versions

    with export_packages():
        versions = exporter_versions()
        from latentrt.export.sources.partial_model import Choices, Ema
        from latentrt.export.sources.source import checkpoint_from_model

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
    parts = (*(row.part for row in checkpoint.family.text_encoders), UNET, VAE_ENCODER, VAE_DECODER)
    kept = _kept_fp32(fp32, precision, parts)
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
            made = compile_missing(existing, engines, timer)
            return Build(bundle=existing, up_to_date=not made, seconds=timer.seconds)
        with export_packages():
            from latentrt.export.components import export_components

        def export_into(folder: Path, precision: Precision, kept: Sequence[str], engines: EnginesToMake) -> None:
            with staged_directory(folder) as root:
                manifest = export_components(checkpoint, root, precision, chosen, timer, seamless, kept)
                manifest = compile_all(root, manifest, engines, timer)
                write_manifest(root / BUNDLE_FILE, manifest)

        if settings is None:
            export_into(output, precision, kept, engines)
        else:
            # What the calibration draws with; it and the calibration outlive a killed build
            work = work_folder(output)
            source = work / "source.bundle"
            wide = Precision.FP16 if settings.recipe.symmetric else Precision.FP32
            held = (*kept, UNET) if wide is Precision.FP16 else ()
            for_cpu = engines_to_make(Backend.ORT_CPU, (), None)
            kept_source = _up_to_date(source, checkpoint, versions, wide, held, chosen, seamless)
            if kept_source is None:
                export_into(source, wide, held, for_cpu)
            else:  # but perhaps its engines are of another version
                compile_missing(kept_source, for_cpu, timer)
            quantize(open_bundle(source), output, kept, engines, settings, work, timer)
            shutil.rmtree(work, ignore_errors=True)
    return Build(bundle=open_bundle(output), up_to_date=False, seconds=timer.seconds)


def _choice(kind: type[_Choice], value: str, name: str) -> _Choice:
    if value not in tuple(kind):
        raise RequestError(f"got {name} {str(value)!r}, expected one of {', '.join(kind)}; choose one of these")
    return kind(value)


def _kept_fp32(wanted: Sequence[str], precision: Precision | None, components: Sequence[str]) -> tuple[str, ...]:
    """Of a model's components those that stay in fp32, in a fixed order."""
    unknown = [name for name in wanted if name not in components]
    if unknown:
        raise RequestError(f"got fp32 {', '.join(unknown)}, expected of {', '.join(components)}; choose of these")
    if wanted and precision is Precision.FP32:
        raise RequestError("got components to keep in fp32 of a bundle in fp32, expected precision fp16; leave one out")
    if UNET in wanted and precision is Precision.INT8:
        raise RequestError("got fp32 unet for a bundle in int8, which is the U-Net's precision; leave one out")
    return tuple(name for name in components if name in wanted)


def _check_bundle_precision(root: Path, wanted: Precision | None, fp32: Sequence[str]) -> None:
    """Refuses another precision than a bundle's: its ONNX cannot be had in any other."""
    has = open_bundle(root).manifest.precision
    if wanted not in (None, has) or fp32:
        got = f"precision {wanted}" if wanted not in (None, has) else f"components to keep in fp32 ({', '.join(fp32)})"
        raise RequestError(f"got {got} for a bundle built in {has}; build from the model with what is wanted")


def _destination(output: str | Path | None) -> Path:
    """The folder to write, one path and so one lock however it is spelled; refused if it holds anything else."""
    if output is None:
        raise RequestError("got no output folder, expected one for the bundle; add -o DIR")
    output = Path(output).resolve()
    if output.exists() and not _replaceable(output):
        raise OutputError(f"{str(output)!r} exists and is no bundle; choose a new folder or remove it")
    return output


def _replaceable(folder: Path) -> bool:
    """Whether a folder is empty, or holds nothing but a bundle, damaged or not."""
    if not folder.is_dir():
        return False
    return all(path.name in _BUNDLE_ENTRIES for path in folder.iterdir())


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


def _check_space(output: Path, parameters: int, precision: Precision, engines: EnginesToMake) -> None:
    """Refuses to start where the disk cannot hold the result."""
    parent = next(folder for folder in output.absolute().parents if folder.exists())
    onnx = _BYTES.get(precision, 4)
    # ONNX Runtime's CPU kernels are fp32: weights in fp16 are folded to that as they are packed
    weights = 4 if engines.compiler.backend is Backend.ORT_CPU else onnx
    # Engines are up to 1.4 times as large as their weights
    needed = int((onnx + 1.4 * weights * len(engines.targets)) * parameters)
    if precision is Precision.INT8:  # the bundle that it is made of, and its engines
        needed += int((4 + 1.4 * 4) * parameters)
    free = shutil.disk_usage(parent).free
    if free < needed:
        raise OutputError(
            f"{str(parent)!r} has {free // 2**20} MB free, the bundle needs about {needed // 2**20} MB; "
            "free some space or choose another disk"
        )


def _build_engines(
    root: Path,
    output: str | Path | None,
    profiles: Sequence[Profile],
    engines: EnginesToMake,
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
        made = compile_missing(bundle, engines, timer)
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
            and (int8 is None or int8.made(manifest.components[UNET].quantization))
        )
        if not same:
            return None
        bundle.check_all()
    except BundleError:
        return None
    return bundle
