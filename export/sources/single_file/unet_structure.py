"""How a U-Net is built, read from the names and shapes of its tensors, and its config.

Two layouts are read: LDM's, which numbers the blocks of the way down and of the way up, and diffusers' own, in which
U-Nets are published alone. What shapes do not tell is the same in every model of a kind: norms have 32 groups; U-Nets
with convolutions around their transformers (SD 1.x) have 8 heads, those with linear layers (SD 2.x, XL) heads of 64
channels.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from latentrt.export.sources.single_file.ldm_layout import (
    GROUPS,
    GUIDANCE_EMBEDDING,
    HEAD,
    LayoutError,
    Shapes,
    count,
    shape_of,
    unet_tensors,
)
from latentrt.export.sources.single_file.temporal_unet import (
    TEMPORAL_UNET,
    is_temporal,
    temporal_settings,
    temporal_unet_tensors,
)

_Levels = list[
    list[tuple[int, int]]
]  # of a way: per level, each resnet's channels and the depth of the transformer there
_PRUNED = "give the model's diffusers folder, whose unet/config.json tells how it was pruned"


@dataclass(frozen=True, kw_only=True)
class UNetStructure:
    """What a U-Net's tensors tell.

    ``down`` and ``up`` are both from the outermost level inwards; ``middle`` is the depth of the middle's transformer,
    None where there is no middle; ``guidance`` the width of LCM's embedding and ``added`` that of SDXL's pooled prompt
    and sizes, None where there is none. ``temporal`` says whether layers work along time, too.
    """

    in_channels: int
    out_channels: int
    down: _Levels
    up: _Levels
    middle: int | None
    context: int
    linear: bool
    guidance: int | None
    added: int | None
    temporal: bool


@dataclass(frozen=True, kw_only=True)
class UNetLayout:
    """One way to name a U-Net's tensors.

    ``marks`` are tensors by which it is known, ``tops`` what its names begin with, ``bias`` the tensor by which SD
    2.x's prediction is told; ``structure`` reads it and ``tensors`` gives its tensors diffusers' names.
    """

    marks: tuple[str, ...]
    tops: tuple[str, ...]
    bias: str
    structure: Callable[[Shapes], UNetStructure]
    tensors: Callable[[Mapping[str, Any], Mapping[str, Any]], dict[str, Any]]


def _ldm_structure(shapes: Shapes) -> UNetStructure:
    return _structure(
        shapes,
        ends=("input_blocks.0.0.weight", "out.2.weight"),
        down=_ldm_way_down(shapes),
        up=_ldm_way_up(shapes)[::-1],
        middle=_depth(shapes, "middle_block.1") if any(key.startswith("middle_block.") for key in shapes) else None,
        added="label_emb.0.0.weight",
    )


def _ldm_way_down(shapes: Shapes) -> _Levels:
    """Blocks are numbered through; a level ends with a block of its own, which halves the size."""
    levels: _Levels = [[]]
    for index in range(1, count(shapes, r"input_blocks\.(\d+)\.")):
        if f"input_blocks.{index}.0.op.weight" in shapes:
            levels.append([])
        else:
            levels[-1].append(_ldm_block(shapes, f"input_blocks.{index}"))
    return levels


def _ldm_way_up(shapes: Shapes) -> _Levels:
    """Likewise; a level's last block also doubles the size, but for that of the last level."""
    levels: _Levels = [[]]
    for index in range(count(shapes, r"output_blocks\.(\d+)\.")):
        block = f"output_blocks.{index}"
        levels[-1].append(_ldm_block(shapes, block))
        if f"{block}.1.conv.weight" in shapes or f"{block}.2.conv.weight" in shapes:
            levels.append([])
    return levels


def _ldm_block(shapes: Shapes, block: str) -> tuple[int, int]:
    return shape_of(shapes, f"{block}.0.out_layers.3.weight", 4)[0], _depth(shapes, f"{block}.1")


def _diffusers_structure(shapes: Shapes) -> UNetStructure:
    return _structure(
        shapes,
        ends=("conv_in.weight", "conv_out.weight"),
        down=_diffusers_way(shapes, "down_blocks"),
        up=_diffusers_way(shapes, "up_blocks")[::-1],
        middle=_depth(shapes, "mid_block.attentions.0")
        if any(key.startswith("mid_block.") for key in shapes)
        else None,
        added="add_embedding.linear_1.weight",
    )


def _diffusers_way(shapes: Shapes, way: str) -> _Levels:
    return [
        [
            (
                shape_of(shapes, f"{way}.{level}.resnets.{layer}.conv1.weight", 4)[0],
                _depth(shapes, f"{way}.{level}.attentions.{layer}"),
            )
            for layer in range(count(shapes, rf"{way}\.{level}\.resnets\.(\d+)\."))
        ]
        for level in range(count(shapes, rf"{way}\.(\d+)\."))
    ]


def _structure(
    shapes: Shapes, *, ends: tuple[str, str], down: _Levels, up: _Levels, middle: int | None, added: str
) -> UNetStructure:
    """What both layouts call alike."""
    first, last = (shape_of(shapes, key, 4) for key in ends)
    context = [shape[1] for key, shape in shapes.items() if key.endswith(".attn2.to_k.weight") and len(shape) == 2]
    projections = [len(shape) for key, shape in shapes.items() if re.search(r"\.\d+\.proj_in\.weight$", key)]
    if not context or not projections:
        raise LayoutError("its U-Net attends to no prompt")
    guidance = [shapes[key] for key in GUIDANCE_EMBEDDING if len(shapes.get(key, ())) == 2]
    return UNetStructure(
        in_channels=first[1],
        out_channels=last[0],
        down=down,
        up=up,
        middle=middle,
        context=context[0],
        linear=projections[0] == 2,
        guidance=guidance[0][1] if guidance else None,
        added=shapes[added][1] if len(shapes.get(added, ())) == 2 else None,
        temporal=is_temporal(shapes),
    )


def _depth(shapes: Shapes, block: str) -> int:
    return count(shapes, re.escape(block) + r"\.transformer_blocks\.(\d+)\.")


def _ldm_tensors(tensors: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    temporal = config["_class_name"] == TEMPORAL_UNET
    return temporal_unet_tensors(tensors, config) if temporal else unet_tensors(tensors, config)


LDM = UNetLayout(
    marks=("input_blocks.0.0.weight",),
    tops=("input_blocks.", "middle_block.", "output_blocks.", "time_embed", "label_emb.", "out."),
    bias="output_blocks.11.1.transformer_blocks.0.norm1.bias",
    structure=_ldm_structure,
    tensors=_ldm_tensors,
)
DIFFUSERS = UNetLayout(
    marks=("conv_in.weight", "down_blocks.0.resnets.0.conv1.weight"),
    tops=("conv_", "time_embedding.", "add_embedding.", "down_blocks.", "mid_block.", "up_blocks."),
    bias="up_blocks.3.attentions.2.transformer_blocks.0.norm1.bias",
    structure=_diffusers_structure,
    tensors=lambda tensors, _: dict(tensors),
)


def unet_config(structure: UNetStructure) -> dict[str, Any]:
    """The config of a U-Net of this structure.

    Raises:
        LayoutError: a U-Net that no listed family has.
    """
    for reason in _pruned(structure):
        raise LayoutError(f"its U-Net is a pruned one, as SSD-1B, Segmind Vega or small-sd are: {reason}", _PRUNED)
    channels = [level[0][0] for level in structure.down]
    if any(width % GROUPS for width in channels):
        raise LayoutError(f"its U-Net has {channels} channels, expected multiples of {GROUPS}")
    if structure.linear and any(width % HEAD for width in channels):
        raise LayoutError(f"its U-Net has {channels} channels, expected multiples of {HEAD}")
    depths = [level[0][1] for level in structure.down]
    attends = [depth > 0 for depth in depths]
    # Where a level has no transformers its entry counts for nothing, but the last is that of the middle block, too
    depths = [*(depth or 1 for depth in depths[:-1]), depths[-1] or structure.middle or 1]
    of_blocks = "SpatioTemporal" if structure.temporal else "2D"
    config: dict[str, Any] = {
        "in_channels": structure.in_channels,
        "out_channels": structure.out_channels,
        "block_out_channels": channels,
        "layers_per_block": len(structure.down[0]),
        "cross_attention_dim": structure.context,
        "transformer_layers_per_block": depths if set(depths) != {1} else 1,
        "down_block_types": [f"{'CrossAttn' if here else ''}DownBlock{of_blocks}" for here in attends],
        "up_block_types": [f"{'CrossAttn' if here else ''}UpBlock{of_blocks}" for here in reversed(attends)],
    }
    if structure.temporal:
        return config | temporal_settings(structure.added, channels)
    config |= {
        "_class_name": "UNet2DConditionModel",
        "attention_head_dim": [width // HEAD for width in channels] if structure.linear else 8,
        "use_linear_projection": structure.linear,
        "norm_num_groups": GROUPS,
    }
    if structure.guidance is not None:
        config["time_cond_proj_dim"] = structure.guidance
    if structure.added is not None:
        # How wide an embedding of a size is shows beside the text encoder alone
        config |= {"addition_embed_type": "text_time", "projection_class_embeddings_input_dim": structure.added}
    return config


def _pruned(structure: UNetStructure) -> Iterator[str]:
    """In what a U-Net is less regular than those of all listed families."""
    down, up = structure.down, structure.up
    layers = len(down[0])
    if not all(level and len(set(level)) == 1 and len(level) == layers for level in down):
        yield "the levels of its way down are not all built alike"
    elif structure.middle is None:
        yield "it has no middle block"
    elif structure.middle != (down[-1][0][1] or structure.middle) or not structure.middle:
        yield f"its middle block has {structure.middle} transformer layers, the level above {down[-1][0][1]}"
    elif [[*level, level[0]] for level in down] != up:
        yield "its way up is not built like its way down"
