"""A spatio-temporal U-Net in SGM's names: its config from its tensors, and these in diffusers' names.

SGM keeps what works along time beside what works on each frame, as ``time_stack``, and mixes both by ``time_mixer``
(sgm/modules/diffusionmodules/video_model.py). Heads are 64 channels wide in every published model.
"""

import re
from collections.abc import Mapping
from typing import Any

from latentrt.export.sources.single_file.ldm_layout import HEAD, LayoutError, Shapes, renamed

TEMPORAL_UNET = "UNetSpatioTemporalConditionModel"
_NUMBERS = 3  # that the U-Net is told of a clip: frames per second, motion bucket, noise augmentation
# How wide an embedding of the numbers is, of SV3D's two models: one number, and that with angles of the camera
_SV3D = (256, 1280)
_TOPS = {
    "time_embed.0.": "time_embedding.linear_1.",
    "time_embed.2.": "time_embedding.linear_2.",
    "label_emb.0.0.": "add_embedding.linear_1.",
    "label_emb.0.2.": "add_embedding.linear_2.",
    "input_blocks.0.0.": "conv_in.",
    "out.0.": "conv_norm_out.",
    "out.2.": "conv_out.",
}
RESNET = {"in_layers.0.": "norm1.", "in_layers.2.": "conv1.", "out_layers.0.": "norm2.", "out_layers.3.": "conv2."}
_RESNET = {**RESNET, "emb_layers.1.": "time_emb_proj.", "skip_connection.": "conv_shortcut."}
_TRANSFORMER = {
    "time_stack.": "temporal_transformer_blocks.",
    "time_pos_embed.0.": "time_pos_embed.linear_1.",
    "time_pos_embed.2.": "time_pos_embed.linear_2.",
}
_MIXER = "time_mixer."
_BLOCK = re.compile(r"(input_blocks|middle_block|output_blocks)\.(\d+)\.(?:(\d+)\.)?(.+)")


def is_temporal(shapes: Shapes) -> bool:
    """Whether a U-Net in LDM's names has layers that work along time."""
    return any(".time_stack." in key for key in shapes)


def temporal_settings(told: int | None, channels: list[int]) -> dict[str, Any]:
    """What the config of a spatio-temporal U-Net has otherwise than that of a plain one.

    Args:
        told: how wide the embedding of the numbers is that it is told; None where it is told none.
        channels: of its levels.

    Raises:
        LayoutError: it is told something else than Stable Video Diffusion is.
    """
    if told is None:
        raise LayoutError("it lacks label_emb.0.0.weight")
    if told in _SV3D:
        raise LayoutError(
            "it is SV3D, whose U-Net is told the camera's path in place of frames per second and motion",
            "choose Stable Video Diffusion, or Zero123 for views of an object",
        )
    if told % _NUMBERS or any(width % HEAD for width in channels):
        raise LayoutError(
            f"its U-Net works along time, with {channels} channels and an embedding of width {told} of what it is "
            f"told, expected multiples of {HEAD} and of {_NUMBERS}, as Stable Video Diffusion has"
        )
    return {
        "_class_name": TEMPORAL_UNET,
        "num_attention_heads": [width // HEAD for width in channels],
        "addition_time_embed_dim": told // _NUMBERS,
        "projection_class_embeddings_input_dim": told,
    }


def temporal_unet_tensors(tensors: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """A U-Net's tensors, without a prefix, in diffusers' names; what has none keeps its own."""
    layers = config["layers_per_block"]
    return {_name(key, layers, tensors): tensor for key, tensor in tensors.items()}


def _name(key: str, layers: int, keys: Mapping[str, Any]) -> str:
    for theirs, ours in _TOPS.items():
        if key.startswith(theirs):
            return ours + key.removeprefix(theirs)
    found = _BLOCK.fullmatch(key)
    if found is None:
        return key
    way, block, module, rest = found[1], int(found[2]), found[3], found[4]
    if way == "middle_block":
        rest = rest if module is None else f"{module}.{rest}"
        return (
            f"mid_block.attentions.0.{_inside(rest)}"
            if block == 1
            else f"mid_block.resnets.{block // 2}.{_resnet(rest)}"
        )
    if way == "input_blocks":
        level, layer = divmod(block - 1, layers + 1)
        if rest.startswith("op."):
            return f"down_blocks.{level}.downsamplers.0.conv.{rest.removeprefix('op.')}"
        place = f"down_blocks.{level}"
    else:
        level, layer = divmod(block, layers + 1)
        if rest.startswith("conv."):
            return f"up_blocks.{level}.upsamplers.0.{rest}"
        place = f"up_blocks.{level}"
    if module == "0":
        return f"{place}.resnets.{layer}.{_resnet(rest)}"
    return f"{place}.attentions.{layer}.{_inside(rest)}"


def _resnet(rest: str) -> str:
    """A residual block's tensor: of the frames' own half, of the half along time, or what mixes both."""
    if rest.startswith(_MIXER):
        return rest
    half = "temporal_res_block." if rest.startswith("time_stack.") else "spatial_res_block."
    return half + renamed(rest.removeprefix("time_stack."), _RESNET)


def _inside(rest: str) -> str:
    return renamed(rest, _TRANSFORMER)
