"""CLIP's vision model in a folder: its config, and the mean and deviation of the pictures that it takes."""

import math
from collections.abc import Mapping
from typing import Any

from latentrt.engines.errors import CheckpointError

EXPECTED = "the folder of a CLIPVisionModelWithProjection"
PICTURES = "preprocessor_config.json"
# CLIP's own, for encoders without such a file (transformers' OPENAI_CLIP_MEAN and _STD)
_MEAN = (0.48145466, 0.4578275, 0.40821073)
_DEVIATION = "image_std"
_STD = (0.26862954, 0.26130258, 0.27577711)
_Three = tuple[float, float, float]


def picture_statistics(config: Mapping[str, Any], text: str) -> tuple[_Three, _Three]:
    """Mean and deviation of each channel in [0, 1], by which pictures are normalised.

    Args:
        config: that of the pictures; where it is silent, CLIP's own.
        text: how messages call the encoder.

    Raises:
        CheckpointError: settings that are none.
    """
    return _three(config, "image_mean", _MEAN, text), _three(config, _DEVIATION, _STD, text)


def vision_config(config: Mapping[str, Any], text: str) -> dict[str, Any]:
    """The config of the encoder, or that of a CLIP model's half, with what transformers takes for granted.

    Args:
        config: as it is stored.
        text: how messages call the encoder.

    Raises:
        CheckpointError: it is of another model, or has sizes that are none.
    """
    vision = config.get("vision_config")
    own = {**vision, "projection_dim": config.get("projection_dim", 512)} if isinstance(vision, dict) else config
    if own.get("model_type", "clip_vision_model") not in ("clip_vision_model", "clip"):
        raise CheckpointError(
            f"got the image encoder {text!r}, a {own['model_type']}, expected {EXPECTED}; give such a folder"
        )
    # transformers' CLIPVisionConfig
    defaults = {
        "hidden_size": 768,
        "intermediate_size": 3072,
        "projection_dim": 512,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "num_channels": 3,
        "image_size": 224,
        "patch_size": 32,
        "hidden_act": "quick_gelu",
    }
    found = {**defaults, **own, "model_type": "clip_vision_model"}
    sizes = [name for name, value in defaults.items() if isinstance(value, int)]
    odd = [name for name in sizes if type(found[name]) is not int or not 0 < found[name] < 2**20]
    odd += ["num_channels"] if found["num_channels"] != 3 else []
    odd += ["patch_size"] if not odd and found["patch_size"] > found["image_size"] else []
    if odd:
        raise CheckpointError(
            f"the config of the image encoder {text!r} has {odd[0]} {found[odd[0]]!r}, expected that of {EXPECTED}; "
            "correct it"
        )
    return found


def _three(
    config: Mapping[str, Any], key: str, otherwise: tuple[float, float, float], text: str
) -> tuple[float, float, float]:
    value = config.get(key, otherwise)
    if (
        not isinstance(value, (list, tuple))
        or len(value) != 3
        or not all(isinstance(one, (int, float)) and math.isfinite(one) for one in value)
        or (key == _DEVIATION and not all(one > 0 for one in value))
    ):
        expected = "three numbers above 0" if key == _DEVIATION else "three numbers"
        raise CheckpointError(f"{PICTURES} of {text!r} has {key} {value!r}, expected {expected}; correct it")
    red, green, blue = map(float, value)
    return red, green, blue
