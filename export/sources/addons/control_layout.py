"""Control nets: LDM's names as diffusers', and the config that names and shapes tell.

What shapes do not tell is as in U-Nets: norms have 32 groups; nets with convolutions around their transformers
(SD 1.x) have 8 heads, those with linear layers (SD 2.x, XL) heads of 64 channels.
"""

import re
from collections.abc import Mapping
from typing import Any

from latentrt.export.sources.single_file.ldm_layout import GROUPS, HEAD, LayoutError, Shapes, count, shape_of

LDM_MARK = "input_hint_block.0.weight"
DIFFUSERS_MARK = "controlnet_cond_embedding.conv_in.weight"
# Where tools keep a net: in a whole checkpoint of ControlNet's own code, alone, of trainers
PREFIXES = ("control_model.", "", "controlnet.", "module.", "model.")
_TOPS = {
    "time_embed.0.": "time_embedding.linear_1.",
    "time_embed.2.": "time_embedding.linear_2.",
    "label_emb.0.0.": "add_embedding.linear_1.",
    "label_emb.0.2.": "add_embedding.linear_2.",
    "input_blocks.0.0.": "conv_in.",
    "middle_block_out.0.": "controlnet_mid_block.",
    "middle_block.0.": "mid_block.resnets.0.",
    "middle_block.1.": "mid_block.attentions.0.",
    "middle_block.2.": "mid_block.resnets.1.",
}
_RESNET = {
    "in_layers.0.": "norm1.",
    "in_layers.2.": "conv1.",
    "emb_layers.1.": "time_emb_proj.",
    "out_layers.0.": "norm2.",
    "out_layers.3.": "conv2.",
    "skip_connection.": "conv_shortcut.",
}


def diffusers_names(names: Mapping[str, Any]) -> dict[str, str]:
    """LDM's names of a control net's tensors, without a prefix, by diffusers' for them.

    What is no tensor of a control net keeps its name.
    """
    places = _places(names)
    hints = sorted({int(found[1]) for name in names if (found := re.match(r"input_hint_block\.(\d+)\.", name))})
    return {_diffusers_name(name, places, hints): name for name in names}


def _places(names: Mapping[str, Any]) -> dict[int, tuple[int, int | None]]:
    """Of each input block the level and its place among the level's layers; None for a downsampler."""
    blocks = sorted({int(found[1]) for name in names if (found := re.match(r"input_blocks\.(\d+)\.", name))})
    places: dict[int, tuple[int, int | None]] = {}
    level = layer = 0
    for block in blocks[1:]:  # the first is the convolution before all levels
        if any(name.startswith(f"input_blocks.{block}.0.op.") for name in names):
            places[block] = (level, None)
            level, layer = level + 1, 0
        else:
            places[block] = (level, layer)
            layer += 1
    return places


def _diffusers_name(name: str, places: Mapping[int, tuple[int, int | None]], hints: list[int]) -> str:
    for begin, ours in _TOPS.items():
        if name.startswith(begin):
            return ours + _in_resnet(name.removeprefix(begin))
    found = re.match(r"(input_blocks|zero_convs|input_hint_block)\.(\d+)\.(.*)", name)
    if found is None:
        return name
    kind, block, rest = found[1], int(found[2]), found[3]
    if kind == "zero_convs":
        return f"controlnet_down_blocks.{block}.{rest.removeprefix('0.')}"
    if kind == "input_hint_block":  # convolutions stand between activations
        place = hints.index(block)
        inner = "conv_in" if place == 0 else "conv_out" if place == len(hints) - 1 else f"blocks.{place - 1}"
        return f"controlnet_cond_embedding.{inner}.{rest}"
    if block not in places:
        return name
    level, layer = places[block]
    if layer is None:
        return f"down_blocks.{level}.downsamplers.0.conv.{rest.removeprefix('0.op.')}"
    part, _, inner = rest.partition(".")
    kind = "resnets" if part == "0" else "attentions"
    return f"down_blocks.{level}.{kind}.{layer}.{_in_resnet(inner)}"


def _in_resnet(rest: str) -> str:
    for begin, ours in _RESNET.items():
        if rest.startswith(begin):
            return ours + rest.removeprefix(begin)
    return rest


def control_config(shapes: Shapes, size_embedding: int | None) -> dict[str, Any]:
    """The config of a control net in diffusers' names.

    Args:
        shapes: of its tensors.
        size_embedding: how wide an embedding of a size is in the model that it is for; only there it shows.

    Raises:
        LayoutError: tensors that are missing, or a net that no listed family has.
    """
    levels = count(shapes, r"down_blocks\.(\d+)\.")
    channels = [shape_of(shapes, f"down_blocks.{level}.resnets.0.conv1.weight", 4)[0] for level in range(levels)]
    if not channels:
        raise LayoutError("it lacks down_blocks.0.resnets.0.conv1.weight")
    if any(width % GROUPS for width in channels):
        raise LayoutError(f"it has {channels} channels, expected multiples of {GROUPS}")
    depths = [_depth(shapes, f"down_blocks.{level}.attentions.0") for level in range(levels)]
    middle = _depth(shapes, "mid_block.attentions.0")
    # Where a level has no transformers its entry counts for nothing, but the last is that of the middle block, too
    last = depths[-1] if depths[-1] is not None else 1 if middle is None else middle
    projections = [len(shape) for key, shape in shapes.items() if key.endswith(".proj_in.weight")]
    contexts = [shape[1] for key, shape in shapes.items() if key.endswith(".attn2.to_k.weight") and len(shape) == 2]
    embedding = "controlnet_cond_embedding"
    hints = count(shapes, rf"{embedding}\.blocks\.(\d+)\.")
    first = shape_of(shapes, f"{embedding}.conv_in.weight", 4)
    linear = bool(projections) and projections[0] == 2
    config: dict[str, Any] = {
        "_class_name": "ControlNetModel",
        "in_channels": shape_of(shapes, "conv_in.weight", 4)[1],
        "conditioning_channels": first[1],
        "conditioning_embedding_out_channels": [
            first[0],
            *(shape_of(shapes, f"{embedding}.blocks.{index}.weight", 4)[0] for index in range(1, hints, 2)),
        ],
        "block_out_channels": channels,
        "layers_per_block": count(shapes, r"down_blocks\.0\.resnets\.(\d+)\."),
        "down_block_types": ["DownBlock2D" if depth is None else "CrossAttnDownBlock2D" for depth in depths],
        "mid_block_type": "UNetMidBlock2D" if middle is None else "UNetMidBlock2DCrossAttn",
        "transformer_layers_per_block": [*(1 if depth is None else depth for depth in depths[:-1]), last],
        "use_linear_projection": linear,
        "attention_head_dim": [width // HEAD for width in channels] if linear else 8,
        "norm_num_groups": GROUPS,
    }
    if contexts:
        config["cross_attention_dim"] = contexts[0]
    if "add_embedding.linear_1.weight" in shapes:
        config |= {
            "addition_embed_type": "text_time",
            "projection_class_embeddings_input_dim": shape_of(shapes, "add_embedding.linear_1.weight", 2)[1],
            "addition_time_embed_dim": size_embedding or 256,
        }
    return config


def union_config(shapes: Shapes, size_embedding: int | None) -> dict[str, Any]:
    """The config of a union net in diffusers' names.

    Raises:
        LayoutError: tensors that are missing, or a net that no listed family has.
    """
    types, width = shape_of(shapes, "task_embedding", 2)
    config = control_config(shapes, size_embedding)
    del config["mid_block_type"]
    # The types' embeddings are as wide as those of sizes
    config["addition_time_embed_dim"] = shape_of(shapes, "control_add_embedding.linear_1.weight", 2)[1] // max(types, 1)
    return {
        **config,
        "_class_name": "ControlNetUnionModel",
        "num_control_type": types,
        "num_trans_channel": width,
        "num_trans_layer": count(shapes, r"transformer_layes\.(\d+)\."),
        "num_proj_channel": shape_of(shapes, "spatial_ch_projs.weight", 2)[0],
    }


def _depth(shapes: Shapes, block: str) -> int | None:
    """How many layers a transformer has, None where there is none; SDXL's nets of middle size have some without."""
    if f"{block}.proj_in.weight" not in shapes:
        return None
    return count(shapes, re.escape(block) + r"\.transformer_blocks\.(\d+)\.")
