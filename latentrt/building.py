"""Conducts a build: export, engines and the gates between them, into one new folder."""

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from latentrt.engines.bundle import Bundle, check_files, open_bundle
from latentrt.engines.cache import compile_component, current_key, read_engine
from latentrt.engines.errors import BundleError, CheckpointError, OutputError, RequestError
from latentrt.engines.files import locked, staged_directory
from latentrt.engines.manifest import BUNDLE_FILE, BundleManifest, DecisionRecord, write_manifest
from latentrt.engines.precision import Backend, Precision
from latentrt.engines.profile import Profile, profile_from_text
from latentrt.engines.progress import Progress, StageTimer
from latentrt.engines.schedule_config import PredictionType
from latentrt.engines.seamless import Seamless

if TYPE_CHECKING:
    from latentrt.export.checkpoint import Checkpoint
    from latentrt.export.offer import Ema

_BUNDLE_ENTRIES = {BUNDLE_FILE, "embeddings", "engines", "onnx", "probes", "tokenizer", "tokenizer_2"}
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
    precision: str | Precision = Precision.FP32,
    profiles: Sequence[str | Profile] = (),
    backend: str | Backend = Backend.ORT_CPU,
    seamless: str | Seamless = Seamless.NONE,
    variant: str | None = None,
    base: str | Path | None = None,
    vae: str | Path | None = None,
    ema: "str | Ema | None" = None,
    family: str | None = None,
    prediction_type: str | PredictionType | None = None,
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
        precision: element type of weights and arithmetic.
        profiles: picture sizes, ``"512x512"`` or ``"768x512x2"`` with a batch; none takes the model's own size.
        backend: what the engines are compiled for.
        seamless: ``"x"``, ``"y"`` or ``"xy"`` makes a model whose pictures wrap around on these axes: copies side by
            side show no seam.
        variant: which of a folder's weights, ``"fp16"`` or another; None takes the plain ones, or the only ones.
        base: a model that supplies what ``model`` lacks.
        vae: an autoencoder in place of the model's own: a folder or a file.
        ema: ``"ema"`` or ``"non-ema"`` where a model has both kinds of weights; None takes what is not averaged of a
            single file, and a folder's plain weights.
        family: a family's name in place of the one that is worked out.
        prediction_type: ``"epsilon"`` or ``"v_prediction"`` in place of the one that is worked out.
        progress: receives the stages.
        decided: receives what was worked out about the model, before the work begins.

    Raises:
        LatentrtError: of the kind that names the reason: CheckpointError, ParityError, BusyError, OutputError.
    """
    timer = StageTimer(progress)
    chosen = [profile if isinstance(profile, Profile) else profile_from_text(profile) for profile in profiles]
    precision, backend = _choice(Precision, precision, "precision"), _choice(Backend, backend, "backend")
    seamless = _choice(Seamless, seamless, "seamless")
    predicts = None if prediction_type is None else _choice(PredictionType, prediction_type, "prediction type")
    about_model = (variant, base, vae, ema, family, predicts)
    if (Path(model) / BUNDLE_FILE).is_file():
        if about_model != (None,) * len(about_model):
            raise RequestError("got a bundle as the model and options about a model; build from the model with them")
        return _build_engines(Path(model), output, chosen, backend, seamless, timer)
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
    if not chosen:
        width, height = checkpoint.default_size
        chosen = [Profile(width=width, height=height)]
    _check_profiles(chosen, checkpoint.pixel_multiple)
    with locked(output):
        existing = _up_to_date(output, checkpoint, versions, precision, chosen, backend, seamless)
        if existing is None:
            _check_space(output, checkpoint)
        if decided is not None:
            decided(checkpoint.decisions)
        if existing is not None:
            return Build(bundle=existing, up_to_date=True, seconds=timer.seconds)
        with _export_packages():
            from latentrt.export.components import export_components
        with staged_directory(output) as root:
            manifest = export_components(checkpoint, root, precision, chosen, timer, seamless)
            manifest = _compile_all(root, manifest, backend, timer)
            write_manifest(root / BUNDLE_FILE, manifest)
    return Build(bundle=open_bundle(output), up_to_date=False, seconds=timer.seconds)


def _choice(kind: type[_Choice], value: str, name: str) -> _Choice:
    if value not in tuple(kind):
        raise RequestError(f"got {name} {str(value)!r}, expected one of {', '.join(kind)}; choose one of these")
    return kind(value)


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


def _check_space(output: Path, checkpoint: "Checkpoint") -> None:
    """Refuses to start where the disk cannot hold the result."""
    parent = next(folder for folder in output.absolute().parents if folder.exists())
    # fp32 ONNX, and engines that are up to 1.4 times as large with packed weights
    needed = int(2.4 * 4 * checkpoint.parameters)
    free = shutil.disk_usage(parent).free
    if free < needed:
        raise OutputError(
            f"{str(parent)!r} has {free // 2**20} MB free, the bundle needs about {needed // 2**20} MB; "
            "free some space or choose another disk"
        )


def _compile_all(root: Path, manifest: BundleManifest, backend: Backend, timer: StageTimer) -> BundleManifest:
    """Compiles and gates every component; the figures go into the manifest."""
    bundle = Bundle(root=root, manifest=manifest)
    records = {}
    for name, record in manifest.components.items():
        with timer.stage(f"{name}: compile"):
            engine = compile_component(root, manifest, name, backend, bundle.probes(name))
        records[name] = record.model_copy(update={"parity": engine.parity})
    return manifest.model_copy(update={"components": records})


def _build_engines(
    root: Path,
    output: str | Path | None,
    profiles: Sequence[Profile],
    backend: Backend,
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
        whole = _engines_whole(bundle, backend)
        if not whole:
            _compile_all(root, bundle.manifest, backend, timer)
    return Build(bundle=bundle, up_to_date=whole, seconds=timer.seconds)


def _engines_whole(bundle: Bundle, backend: Backend) -> bool:
    """Whether every component has its engine for this machine, with nothing missing or altered."""
    try:
        for name in bundle.manifest.components:
            folder = bundle.root / "engines" / current_key(bundle.manifest, name, backend)
            check_files(folder, read_engine(folder).files, largest_hashed=None)
    except BundleError:
        return False
    return True


def _values(decisions: Mapping[str, DecisionRecord]) -> dict[str, str]:
    """What was decided, however it came about."""
    return {name: decision.value for name, decision in decisions.items()}


def _up_to_date(
    output: Path,
    checkpoint: "Checkpoint",
    versions: dict[str, str],
    precision: Precision,
    profiles: Sequence[Profile],
    backend: Backend,
    seamless: Seamless,
) -> Bundle | None:
    """The bundle at ``output`` if a build would make the same one again."""
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
            and all(record.precision == precision for record in manifest.components.values())
            and _values(manifest.source.decisions) == _values(checkpoint.decisions)
            and manifest.source.files == checkpoint.files
        )
        if not same:
            return None
        bundle.check_all()
    except BundleError:
        return None
    return bundle if _engines_whole(bundle, backend) else None
