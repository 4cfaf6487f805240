"""What single files keep beside a U-Net that is told a picture: CLIP's picture encoder, a projection of poses."""

from collections.abc import Mapping
from typing import Any

from latentrt.export.sources.family import POSE_PART
from latentrt.export.sources.parts import FilePart
from latentrt.export.sources.single_file.clip_vision import clip_vision_config, clip_vision_tensors
from latentrt.export.sources.single_file.ldm_layout import LayoutError, Shapes, below, shape_of
from latentrt.export.sources.weights_file import WeightsFile

# Where SGM's and LDM's models keep a CLIP whose transformer for texts was taken away, and the activation of its layers
_PLACES = {"conditioner.embedders.0.open_clip.model.": "gelu", "cond_stage_model.model.": "quick_gelu"}
_VISUAL = "visual."
_POSE = "cc_projection"
_NUMBERS = 4  # of a pose


def picture_conditions_in(file: WeightsFile, recorded: str) -> dict[str, FilePart]:
    """The image encoder of a file and its projection of poses, by part, as far as they are there.

    Raises:
        LayoutError: tensors that are missing, or of other shapes.
    """
    found = {}
    for prefix, act in _PLACES.items():
        if not has_image_encoder(file.shapes, prefix):
            continue
        shapes = below(file.shapes, prefix + _VISUAL)
        found["image_encoder"] = FilePart(
            name="image_encoder",
            recorded=recorded,
            config=clip_vision_config(shapes, act=act),
            file=file,
            keys={key: f"{prefix}{_VISUAL}{key}" for key in shapes},
            convert=clip_vision_tensors,
        )
        break
    shapes = below(file.shapes, f"{_POSE}.")
    if shapes:
        found[POSE_PART] = FilePart(
            name=POSE_PART,
            recorded=recorded,
            config=_pose_config(shapes),
            file=file,
            keys={key: f"{_POSE}.{key}" for key in shapes},
            convert=_as_they_are,
        )
    return found


def has_image_encoder(shapes: Shapes, prefix: str) -> bool:
    """Whether under a prefix, where text encoders may be, stands the half of a CLIP that takes pictures, alone."""
    texts = any(key.startswith(f"{prefix}transformer.resblocks.") for key in shapes)
    return any(key.startswith(prefix + _VISUAL) for key in shapes) and not texts


def _pose_config(shapes: Shapes) -> dict[str, Any]:
    rows, columns = shape_of(shapes, "weight", 2)
    shape_of(shapes, "bias", 1)
    if columns != rows + _NUMBERS:
        raise LayoutError(
            f"its {_POSE} takes {columns} numbers and gives {rows}, expected {_NUMBERS} more than it gives, of a pose"
        )
    return {"in_features": columns, "out_features": rows}


def _as_they_are(tensors: Mapping[str, Any], _: Mapping[str, Any]) -> dict[str, Any]:
    return dict(tensors)
