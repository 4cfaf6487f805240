"""Where single files keep text encoders, and in whose names."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from latentrt.engines.bundle.tokenizer import END
from latentrt.export.sources.parts import FilePart
from latentrt.export.sources.single_file.ldm_layout import (
    ACTIVATIONS,
    below,
    clip_config,
    clip_tensors,
    count,
    open_clip_config,
    open_clip_tensors,
)
from latentrt.export.sources.single_file.picture_conditions import has_image_encoder
from latentrt.export.sources.weights_file import WeightsFile


@dataclass(frozen=True, kw_only=True)
class _Place:
    """Where a layout keeps a text encoder: ``whole`` is SDXL's second one, which has a projection."""

    prefix: str
    part: str
    whole: bool = False


_PLACES = (
    _Place(prefix="cond_stage_model.transformer.", part="text_encoder"),  # SD 1.x
    _Place(prefix="cond_stage_model.model.", part="text_encoder"),  # SD 2.x
    _Place(prefix="conditioner.embedders.0.transformer.", part="text_encoder"),  # SDXL
    _Place(prefix="conditioner.embedders.1.model.", part="text_encoder_2", whole=True),
    _Place(prefix="conditioner.embedders.1.transformer.", part="text_encoder_2", whole=True),
    _Place(prefix="conditioner.embedders.0.model.", part="text_encoder_2", whole=True),  # SDXL's refiner
    _Place(prefix="text_encoder.", part="text_encoder"),  # a diffusers pipeline in one file
    _Place(prefix="text_encoder_2.", part="text_encoder_2", whole=True),
)
_CLIP_MARKS = ("text_model.embeddings.token_embedding.weight", "embeddings.token_embedding.weight")
_VIT_L, _VIT_H = 768, 1024  # widths
_OPEN_CLIP_MARK = "token_embedding.weight"


def encoders_in(file: WeightsFile, recorded: str, *, linear_unet: bool) -> dict[str, FilePart]:
    """The text encoders of a file, by part.

    Args:
        file: the file.
        recorded: what the bundle calls it.
        linear_unet: whether the U-Net's transformers begin with linear layers, as SD 2.x's and SDXL's do.

    Raises:
        LayoutError: tensors that are missing.
    """
    found: dict[str, FilePart] = {}
    second = any(place.whole and _marks(file, place) for place in _PLACES)
    for place in _PLACES:
        marks = _marks(file, place)
        if place.part in found or not marks:
            continue
        clip = marks != [_OPEN_CLIP_MARK]
        # The positions' numbers, which old files list in whatever type, are no weights
        shapes = {key: shape for key, shape in below(file.shapes, place.prefix).items() if "position_ids" not in key}
        read = clip_config if clip else open_clip_config
        config = read(shapes, whole=place.whole)
        of_sd2 = linear_unet and not place.whole and not second
        if not place.whole and config["hidden_size"] not in ACTIVATIONS:
            # Beside SD 2.x's U-Net stands OpenCLIP's ViT-H, beside others CLIP's ViT-L, in whoever's names
            config["hidden_act"] = "gelu" if of_sd2 else "quick_gelu"
        if not clip and not place.whole and (not of_sd2 or config["hidden_size"] == _VIT_L):
            config["num_hidden_layers"] = count(shapes, r"transformer\.resblocks\.(\d+)\.")  # all are used
        elif clip and of_sd2 and config["hidden_size"] == _VIT_H and config["num_hidden_layers"] == 24:
            config["num_hidden_layers"] = 23  # SD 2.x takes the state before the last layer
        found[place.part] = FilePart(
            name=place.part,
            recorded=recorded,
            config=config,
            file=file,
            keys={key: place.prefix + key for key in shapes},
            convert=clip_tensors if clip else open_clip_tensors,
        )
    return found


def _marks(file: WeightsFile, place: _Place) -> list[str]:
    """By which tensors a text encoder shows in a place; none where there is none, or a picture encoder's other half."""
    if has_image_encoder(file.shapes, place.prefix):
        return []
    return [mark for mark in (*_CLIP_MARKS, _OPEN_CLIP_MARK) if place.prefix + mark in file.shapes]


def pad_token(config: Mapping[str, Any]) -> str:
    """What the tokenizer of a text encoder pads with: CLIP ViT-L's with the end token, OpenCLIP's models with ``!``."""
    return END if config["hidden_act"] == "quick_gelu" else "!"
