"""A checkpoint in one file: its parts and what it tells of its training, from names, shapes and a few numbers."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from latentrt.engines.bundle.records.manifest import DecisionRecord
from latentrt.engines.bundle.tokenizer import END
from latentrt.engines.errors import CheckpointError
from latentrt.export.sources.partial_model import Ema, PartialModel, decision
from latentrt.export.sources.parts import FilePart
from latentrt.export.sources.single_file.foreign_models import model_beside_unet, model_without_unet
from latentrt.export.sources.single_file.ldm_layout import (
    LayoutError,
    below,
    clip_config,
    clip_tensors,
    open_clip_config,
    open_clip_tensors,
    unet_config,
    unet_tensors,
    vae_config,
    vae_tensors,
)
from latentrt.export.sources.single_file.schedule import FileSchedule, latents_in_file, schedule_in_file
from latentrt.export.sources.single_file.tokenizer import VOCABULARY, clip_tokenizer_folder
from latentrt.export.sources.unread import is_idle
from latentrt.export.sources.weights_file import WeightsFile, open_weights_file

UNET = "model.diffusion_model."
_EMA = "model_ema."
_FIRST = "input_blocks.0.0.weight"
_EXPECTED = "expected a Stable Diffusion 1.x, 2.x or XL checkpoint in the LDM or SGM layout"
_FLOATS = frozenset({"float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2"})
_Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, kw_only=True)
class _Encoder:
    """Where a layout keeps a text encoder: the prefix, a tensor under it, the part, and how to read it."""

    prefix: str
    mark: tuple[str, ...]
    part: str
    config: Callable[[_Shapes], dict[str, Any]]
    tensors: Callable[[Mapping[str, Any], Mapping[str, Any]], dict[str, Any]]
    pad_token: str


_CLIP_MARK = ("text_model.embeddings.token_embedding.weight", "embeddings.token_embedding.weight")
_OPEN_CLIP_MARK = ("token_embedding.weight",)


def _clip_l(prefix: str) -> _Encoder:
    return _Encoder(
        prefix=prefix,
        mark=_CLIP_MARK,
        part="text_encoder",
        config=clip_config,
        tensors=clip_tensors,
        pad_token=END,
    )


def _open_clip(prefix: str, part: str, *, whole: bool) -> _Encoder:
    return _Encoder(
        prefix=prefix,
        mark=_OPEN_CLIP_MARK,
        part=part,
        config=lambda shapes: open_clip_config(shapes, whole=whole),
        tensors=open_clip_tensors,
        pad_token="!",
    )


_ENCODERS = (
    _clip_l("cond_stage_model.transformer."),  # SD 1.x
    _open_clip("cond_stage_model.model.", "text_encoder", whole=False),  # SD 2.x
    _clip_l("conditioner.embedders.0.transformer."),  # SDXL
    _open_clip("conditioner.embedders.1.model.", "text_encoder_2", whole=True),
    _open_clip("conditioner.embedders.0.model.", "text_encoder_2", whole=True),  # SDXL's refiner
)
_VAE_PREFIXES = ("first_stage_model.", "vae.", "")
_VAE_MARKS = ("encoder.down.0.block.0.conv1.weight", "encoder.down_blocks.0.resnets.0.conv1.weight")


def partial_model_from_file(path: Path, *, ema: Ema | None, recorded: str = "") -> PartialModel:
    """What a single file offers: any of U-Net, autoencoder and text encoders.

    Args:
        path: the file.
        ema: which weights of the U-Net; None takes those that are not averaged, as diffusers does.
        recorded: what the bundle puts before the file's name.

    Raises:
        CheckpointError: it is no file of tensors, another model, or incomplete.
    """
    file = open_weights_file(path)
    foreign = model_beside_unet(file.shapes)
    unet_prefix = next((prefix for prefix in (UNET, "") if prefix + _FIRST in file.shapes), None)
    if foreign is None and unet_prefix is None:
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
    assert unet_prefix is not None
    recorded += path.name
    decisions: dict[str, DecisionRecord] = {}
    if file.renamed:
        decisions["format"] = decision(
            file.format.value, f"its content, though it is called {path.suffix or path.name}"
        )
    try:
        encoders = _encoders(file, recorded)
        unet, decisions["weights"] = _unet(file, recorded, unet_prefix, ema, encoders)
        parts = {**encoders, "unet": unet}
        vae = _vae(file, recorded)
        if vae is not None:
            parts["vae"] = vae
    except LayoutError as error:
        raise CheckpointError(f"{str(path)!r} cannot be built: {error}; {_EXPECTED}") from error
    _check_channels(file.path, unet.config)
    for part in parts.values():
        _check_dtypes(part)
    schedule = schedule_in_file(file, unet.config, unet_prefix)
    return PartialModel(
        source=str(path),
        name=path.stem,
        parts=parts,
        tokenizers=_tokenizers(parts),
        tokenizer_origin=decision("CLIP's own", "a single file has none"),
        training=schedule.training,
        prediction=schedule.prediction,
        latents=latents_in_file(file, unet.config["out_channels"]),
        turbo=_turbo(file, schedule),
        outside=_outside(file, parts, unet_prefix),
        decisions=decisions,
    )


def _outside(file: WeightsFile, parts: Mapping[str, FilePart], unet_prefix: str) -> tuple[str, ...]:
    """The tensors that are no part's; of a U-Net's two sets of weights, a decision tells."""
    read = {key for part in parts.values() for key in part.keys.values()}
    return tuple(
        key
        for key in file.shapes
        if key not in read and not is_idle(key) and not (unet_prefix and key.startswith(unet_prefix))
    )


def vae_from_file(path: Path, *, recorded: str) -> FilePart:
    """The autoencoder of a file that holds one alone or a whole checkpoint.

    Raises:
        CheckpointError: it holds none, or an incomplete one.
    """
    file = open_weights_file(path)
    try:
        part = _vae(file, recorded + path.name)
    except LayoutError as error:
        raise CheckpointError(f"{str(path)!r} cannot be used as a VAE: {error}; choose another") from error
    if part is None:
        foreign = model_without_unet(file.shapes)
        kind = f", {foreign.name}" if foreign else ""
        raise CheckpointError(f"got --vae {str(path)!r}{kind}, expected an autoencoder (AutoencoderKL); choose one")
    _check_dtypes(part)
    return part


def _unet(
    file: WeightsFile, recorded: str, prefix: str, ema: Ema | None, encoders: Mapping[str, FilePart]
) -> tuple[FilePart, DecisionRecord]:
    shapes = below(file.shapes, prefix)
    if not prefix:  # the rest of such a file is none of the U-Net's
        shapes = {key: shape for key, shape in shapes.items() if key.startswith(_UNET_TOPS)}
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
    second = encoders.get("text_encoder_2")
    part = FilePart(
        name="unet",
        recorded=recorded,
        config=unet_config(
            shapes,
            pooled=second.config["projection_dim"] if second else None,
            time_ids=(6 if "text_encoder" in encoders else 5) if second else None,
        ),
        file=file,
        keys=keys,
        convert=unet_tensors,
    )
    return part, weights


_UNET_TOPS = ("input_blocks.", "middle_block.", "output_blocks.", "time_embed", "label_emb.", "out.")


def _encoders(file: WeightsFile, recorded: str) -> dict[str, FilePart]:
    found = {}
    for row in _ENCODERS:
        if not any(row.prefix + mark in file.shapes for mark in row.mark):
            continue
        shapes = below(file.shapes, row.prefix)
        found[row.part] = FilePart(
            name=row.part,
            recorded=recorded,
            config=row.config(shapes),
            file=file,
            keys={key: row.prefix + key for key in shapes},
            convert=row.tensors,
        )
    return found


def _vae(file: WeightsFile, recorded: str) -> FilePart | None:
    for prefix in _VAE_PREFIXES:
        if any(prefix + mark in file.shapes for mark in _VAE_MARKS):
            tops = ("encoder.", "decoder.", "quant_conv.", "post_quant_conv.")
            shapes = {key: shape for key, shape in below(file.shapes, prefix).items() if key.startswith(tops)}
            return FilePart(
                name="vae",
                recorded=recorded,
                config=vae_config(shapes),
                file=file,
                keys={key: prefix + key for key in shapes},
                convert=vae_tensors,
            )
    return None


def _check_channels(path: Path, unet: Mapping[str, Any]) -> None:
    """Names the models that differ from Stable Diffusion by what their U-Net is given."""
    latents, taken = unet["out_channels"], unet["in_channels"]
    kinds = {
        latents + 1: "a depth-to-image model",
        latents + 3: "the SD upscaler",
        2 * latents: "InstructPix2Pix or another model that is given a second picture",
    }
    if taken in kinds:
        raise CheckpointError(
            f"got {str(path)!r}, {kinds[taken]} (its U-Net has in_channels {taken}), expected {latents}, or "
            f"{2 * latents + 1} for inpainting; choose a text-to-image or an inpainting model"
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
    pads = {row.part: row.pad_token for row in _ENCODERS if row.part == "text_encoder_2"}
    folders = {}
    for name, part in parts.items():
        if name.startswith("text_encoder") and part.config["vocab_size"] >= VOCABULARY:
            pad = pads.get(name, END if part.convert is clip_tensors else "!")
            folders[name.replace("text_encoder", "tokenizer")] = clip_tokenizer_folder(pad)
    return folders


def _turbo(file: WeightsFile, schedule: FileSchedule) -> str | None:
    """Why a file is taken for a model distilled to a few steps; its tensors do not tell."""
    if schedule.training.get("prediction_type", "epsilon") != "epsilon":
        return None
    for key in ("modelspec.architecture", "modelspec.title"):
        if "turbo" in file.metadata.get(key, "").lower():
            return f"the file's {key} {file.metadata[key]!r}"
    if re.search(r"(^|[^a-z])turbo([^a-z]|$)", file.path.stem.lower()):
        return f"nothing but the file's name, {file.path.name}; --family for another"
    return None
