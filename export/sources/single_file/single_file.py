"""A checkpoint in one file: its parts and what it tells of its training, from names, shapes and a few numbers."""

from collections.abc import Mapping, Set
from pathlib import Path
from typing import Any

from latentrt.engines.bundle.records.manifests.components_manifest import DecisionRecord
from latentrt.engines.errors import CheckpointError
from latentrt.export.sources.checks.unread import is_idle
from latentrt.export.sources.foreign.models import model_beside_unet, model_without_unet
from latentrt.export.sources.partial_model import Ema, PartialModel, decision
from latentrt.export.sources.parts import FilePart
from latentrt.export.sources.single_file.autoencoder import PICTURE_ENCODER, autoencoder_in
from latentrt.export.sources.single_file.encoders import encoders_in, pad_token
from latentrt.export.sources.single_file.ldm_layout import LayoutError, below
from latentrt.export.sources.single_file.picture_conditions import picture_conditions_in
from latentrt.export.sources.single_file.schedule import latents_in_file, schedule_in_file
from latentrt.export.sources.single_file.temporal_unet import TEMPORAL_UNET
from latentrt.export.sources.single_file.tokenizer import VOCABULARY, clip_tokenizer_folder
from latentrt.export.sources.single_file.unet_structure import DIFFUSERS, LDM, UNetLayout, unet_config
from latentrt.export.sources.weights_file import SHARD, WeightsFile, open_weights_file

_EMA = "model_ema."
_FIRST_ENCODER = ("first_stage_model.encoder.", "first_stage_model.quant_conv.")
# Where tools keep a U-Net: LDM and SGM, a diffusers pipeline in one file, a U-Net alone, some trainers
_UNET_PREFIXES = ("model.diffusion_model.", "unet.", "", "diffusion_model.", "model.", "module.")
_EXPECTED = (
    "expected a checkpoint of Stable Diffusion 1.x, 2.x or XL, of Stable Video Diffusion or of Zero123, in LDM's, "
    "SGM's or diffusers' names"
)
_FLOATS = frozenset({"float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2"})


def partial_model_from_file(
    path: Path, *, ema: Ema | None, recorded: str = "", wanted: Set[str] = frozenset(("vae",))
) -> PartialModel:
    """What a single file offers: any of U-Net, autoencoder and text encoders.

    Args:
        path: the file.
        ema: which weights of the U-Net; None takes those that are not averaged, as diffusers does.
        recorded: what the bundle puts before the file's name.
        wanted: the parts that are read; an autoencoder that is not among them is not looked at.

    Raises:
        CheckpointError: it is no file of tensors, another model, or incomplete.
    """
    file = open_weights_file(path)
    shard = SHARD.search(path.name)
    if shard is not None and int(shard[2]) > 1:
        raise CheckpointError(
            f"got {str(path)!r}, one of {int(shard[2])} shards of a part, expected all of them; give the folder of the "
            "model that it belongs to"
        )
    foreign = model_beside_unet(file.shapes)
    place = _unet_place(file)
    if foreign is None and place is None:
        if any(key.startswith(_EMA + "diffusion_model") for key in file.shapes):
            raise CheckpointError(
                f"{str(path)!r} has the averaged weights of a U-Net (model_ema) alone, {_EXPECTED}; "
                "take the whole file, or one whose weights were renamed"
            )
        foreign = model_without_unet(file.shapes)
        if foreign is None:
            first = ", ".join(list(file.shapes)[:3]) or "none"
            raise CheckpointError(
                f"{str(path)!r} holds no U-Net (its first tensors are {first}), {_EXPECTED}; give one"
            )
    if foreign is not None:
        raise CheckpointError(f"got {str(path)!r}, {foreign.name}, {_EXPECTED}; {foreign.advice}")
    assert place is not None
    recorded += path.name
    decisions: dict[str, DecisionRecord] = {}
    if file.renamed:
        decisions["format"] = decision(
            file.format.value, f"its content, though it is called {path.suffix or path.name}"
        )
    try:
        unet, decisions["weights"] = _unet(file, recorded, place, ema)
        temporal = unet.config["_class_name"] == TEMPORAL_UNET
        linear = temporal or unet.config["use_linear_projection"]
        parts = {**encoders_in(file, recorded, linear_unet=linear), **picture_conditions_in(file, recorded)}
        parts["unet"] = unet
        vae = autoencoder_in(file, recorded, temporal=temporal) if "vae" in wanted else None
        if vae is not None:
            parts["vae"] = vae
            if any(key.startswith(PICTURE_ENCODER) for key in vae.keys.values()):
                decisions["encoder"] = decision(
                    PICTURE_ENCODER.removesuffix(".encoder."), "the autoencoder that the model's authors encode with"
                )
    except LayoutError as error:
        raise CheckpointError(f"{str(path)!r} cannot be built: {error}, {_EXPECTED}; {error.advice}") from error
    _check_channels(file.path, unet.config)
    for part in parts.values():
        _check_dtypes(part)
    schedule = schedule_in_file(file, unet.config, place[0])
    if schedule.passed_over is not None:
        decisions["noise schedule"] = decision("the family's", schedule.passed_over)
    return PartialModel(
        source=str(path),
        name=path.stem,
        parts=parts,
        tokenizers=_tokenizers(parts),
        tokenizer_origin=decision("CLIP's own", "a single file has none"),
        training=schedule.training,
        prediction=schedule.prediction,
        latents=latents_in_file(file, unet.config["out_channels"]),
        metadata=file.metadata,
        outside=_outside(file, parts, place[0]),
        decisions=decisions,
    )


def _outside(file: WeightsFile, parts: Mapping[str, FilePart], unet_prefix: str) -> tuple[str, ...]:
    """The tensors that are no part's; of two sets of weights of a U-Net, or two encoders, a decision tells."""
    read = {key for part in parts.values() for key in part.keys.values()}
    known: tuple[str, ...] = (unet_prefix,) if unet_prefix else ()
    known += _FIRST_ENCODER if any(key.startswith(PICTURE_ENCODER) for key in read) else ()
    return tuple(key for key in file.shapes if key not in read and not is_idle(key) and not key.startswith(known))


def vae_from_file(path: Path, *, recorded: str) -> FilePart:
    """The autoencoder of a file that holds one alone or a whole checkpoint.

    Raises:
        CheckpointError: it holds none, or an incomplete one.
    """
    file = open_weights_file(path)
    try:
        part = autoencoder_in(file, recorded + path.name)
    except LayoutError as error:
        raise CheckpointError(f"{str(path)!r} cannot be used as a VAE: {error}; choose another") from error
    if part is None:
        foreign = model_without_unet(file.shapes)
        kind = f", {foreign.name}" if foreign else ""
        raise CheckpointError(f"got --vae {str(path)!r}{kind}, expected an autoencoder (AutoencoderKL); choose one")
    _check_dtypes(part)
    return part


def _unet_place(file: WeightsFile) -> tuple[str, UNetLayout] | None:
    """Under which prefix a file keeps a U-Net, and in whose names."""
    for prefix in _UNET_PREFIXES:
        for layout in (LDM, DIFFUSERS):
            if all(prefix + mark in file.shapes for mark in layout.marks):
                return prefix, layout
    return None


def _unet(
    file: WeightsFile, recorded: str, place: tuple[str, UNetLayout], ema: Ema | None
) -> tuple[FilePart, DecisionRecord]:
    prefix, layout = place
    shapes = below(file.shapes, prefix)
    if not prefix:  # the rest of such a file is none of the U-Net's
        shapes = {key: shape for key, shape in shapes.items() if key.startswith(layout.tops)}
    keys = {key: prefix + key for key in shapes}
    # LitEma names a tensor by its path without the dots (ldm/modules/ema.py)
    averaged = {key: f"{_EMA}diffusion_model{key.replace('.', '')}" for key in shapes}
    there = sum(twin in file.shapes for twin in averaged.values())
    if ema is Ema.EMA and there < len(keys):
        raise CheckpointError(
            f"got --ema for {str(file.path)!r}, which has {'no' if not there else f'{there} of {len(keys)}'} "
            "averaged weights (model_ema); leave --ema out"
        )
    if ema is Ema.EMA:
        keys, weights = averaged, decision(Ema.EMA, "chosen with --ema")
    elif there:
        reason = (
            "chosen with --no-ema"
            if ema
            else "the file has both, and these are diffusers' choice; --ema for the averaged"
        )
        weights = decision(Ema.NON_EMA, reason)
    else:
        weights = decision("single", "the file has no averaged weights (model_ema) beside them")
    part = FilePart(
        name="unet",
        recorded=recorded,
        config=unet_config(layout.structure(shapes)),
        file=file,
        keys=keys,
        convert=layout.tensors,
    )
    return part, weights


def _check_channels(path: Path, unet: Mapping[str, Any]) -> None:
    """Names the models that differ from Stable Diffusion by what their U-Net is given."""
    latents, taken = unet["out_channels"], unet["in_channels"]
    kinds = {
        latents + 1: "a depth-to-image model",
        latents + 3: "the SD upscaler",
    }
    if taken in kinds:
        raise CheckpointError(
            f"got {str(path)!r}, {kinds[taken]} (its U-Net has in_channels {taken}), expected {latents}, "
            f"{2 * latents + 1} for inpainting, or {2 * latents} where a picture is told; choose such a model"
        )


def _check_dtypes(part: FilePart) -> None:
    odd = sorted(part.dtypes - _FLOATS - {"int64"})  # int64: the positions' numbers in CLIP's old files
    if odd:
        raise CheckpointError(
            f"{part.name} of {str(part.file.path)!r} is stored as {', '.join(odd)}, expected float32, float16 or "
            "bfloat16; take the model in one of these"
        )


def _tokenizers(parts: Mapping[str, FilePart]) -> dict[str, Path]:
    """CLIP's own vocabulary for the encoders that embed it whole; some fine-tunes have a few rows more."""
    folders = {}
    for name, part in parts.items():
        if name.startswith("text_encoder") and part.config["vocab_size"] >= VOCABULARY:
            folders[name.replace("text_encoder", "tokenizer")] = clip_tokenizer_folder(pad_token(part.config))
    return folders
