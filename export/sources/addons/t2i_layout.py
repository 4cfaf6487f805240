"""T2I-Adapters: their own names as diffusers', and the config that names and shapes tell."""

import re
from collections.abc import Mapping
from typing import Any

from latentrt.export.sources.single_file.ldm_layout import LayoutError, Shapes, count, shape_of

FULL, XL, LIGHT = "full_adapter", "full_adapter_xl", "light_adapter"
_BLOCK = r"body\.(\d+)\.(?:block1|block2|in_conv|out_conv|body\.\d+\.block[12])\.(?:weight|bias)"
MARK = r"^(?:adapter\.|module\.)?body\.0\.(?:block1|in_conv|resnets\.0\.block1|body\.0\.block1)\.weight$"
_OURS = "adapter."
_LEVELS = 4


def diffusers_names(shapes: Shapes) -> dict[str, str]:
    """diffusers' names of an adapter's tensors, and the file's for them.

    Raises:
        LayoutError: an adapter of other blocks.
    """
    prefix = next(p for p in (_OURS, "module.", "") if any(re.match(re.escape(p) + r"body\.", key) for key in shapes))
    bare = {key.removeprefix(prefix): key for key in shapes if key.startswith(prefix)}
    if any(re.match(r"body\.\d+\.resnets\.", name) for name in bare):
        return {_OURS + name: key for name, key in bare.items()}
    if any(name.endswith(("skep.weight", "down_opt.op.weight", "down.op.weight")) for name in bare):
        raise LayoutError("its blocks have convolutions beside them (skep, down_opt), as no published adapter has")
    light = any(re.match(r"body\.\d+\.body\.", name) for name in bare)
    blocks = len({name.split(".")[1] for name in bare if name.startswith("body.")}) if not light else 0
    per_level, rest = divmod(blocks, _LEVELS)
    if not light and (rest or not per_level):
        raise LayoutError(f"it has {blocks} blocks, expected as many for each of {_LEVELS} levels")
    return {_OURS + _diffusers_name(name, per_level): key for name, key in bare.items()}


def _diffusers_name(name: str, per_level: int) -> str:
    """A light adapter has its blocks level by level; those of a full one are numbered through."""
    found = re.fullmatch(r"body\.(\d+)\.(.*)", name)
    if found is None:
        return name
    block, rest = int(found[1]), found[2]
    if not per_level:
        return f"body.{block}.{rest.replace('body.', 'resnets.')}"
    level, layer = divmod(block, per_level)
    if rest.startswith("in_conv."):
        return f"body.{level}.{rest}"
    return f"body.{level}.resnets.{layer}.{rest}"


def adapter_config(shapes: Shapes) -> dict[str, Any]:
    """The config of an adapter in diffusers' names.

    Raises:
        LayoutError: tensors that are missing.
    """
    levels, light = count(shapes, r"adapter\.body\.(\d+)\."), "adapter.body.0.out_conv.weight" in shapes
    if light:
        taken = shape_of(shapes, "adapter.body.0.in_conv.weight", 4)[1]
        outputs = [shape_of(shapes, f"adapter.body.{level}.out_conv.weight", 4)[0] for level in range(levels)]
        channels = outputs[:-1]  # the last level repeats the one before
    else:
        taken = shape_of(shapes, "adapter.conv_in.weight", 4)[1]
        channels = [shape_of(shapes, f"adapter.body.{level}.resnets.0.block1.weight", 4)[0] for level in range(levels)]
    colours, factor = _unshuffled(taken)
    return {
        "_class_name": "T2IAdapter",
        "in_channels": colours,
        "channels": channels,
        "num_res_blocks": count(shapes, r"adapter\.body\.0\.resnets\.(\d+)\."),
        "downscale_factor": factor,
        "adapter_type": LIGHT if light else XL if factor == 16 else FULL,
    }


def _unshuffled(taken: int) -> tuple[int, int]:
    """The channels of the picture, and how many pixels of a side became channels."""
    for colours in (3, 1):
        for factor in (8, 16):
            if taken == colours * factor**2:
                return colours, factor
    raise LayoutError(f"it takes {taken} channels, expected 192 or 64 (SD 1.x), or 768 or 256 (SDXL)")


def feature_levels(config: Mapping[str, Any], factor: int) -> list[tuple[int, int]]:
    """Of each feature the channels, and how often the latents' planes were halved.

    Args:
        config: in diffusers' way.
        factor: by which latents are smaller than pictures.

    Raises:
        LayoutError: settings that are none, features that are larger than latents, or that no halving gives.
    """
    kind, channels, unshuffled = config["adapter_type"], config["channels"], config["downscale_factor"]
    if kind not in (FULL, XL, LIGHT):
        raise LayoutError(f"its adapter_type is {kind!r}, expected one of {FULL}, {XL}, {LIGHT}")
    if config["in_channels"] not in (1, 3):
        raise LayoutError(f"it takes pictures of {config['in_channels']!r} channels, expected 3, or 1 for grey ones")
    if type(unshuffled) is not int or not channels or not all(type(width) is int for width in channels):
        raise LayoutError("its config has no whole numbers as channels and downscale_factor")
    level = (unshuffled // factor).bit_length() - 1 if unshuffled >= factor else -1
    if level < 0 or factor << level != unshuffled:
        raise LayoutError(f"it begins at 1/{unshuffled} of the picture, expected 1/{factor} or a half of that")
    if kind == XL:
        return [(width, level + (index >= 2)) for index, width in enumerate(channels)]
    widths = [*channels, channels[-1]] if kind == LIGHT else channels
    return [(width, level + index) for index, width in enumerate(widths)]
