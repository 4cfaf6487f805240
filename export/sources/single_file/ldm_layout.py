"""Configs of a single file's parts from the names and shapes of its tensors, and their tensors in diffusers' names.

What shapes do not tell is the same in every model of a kind: norms have 32 groups; U-Nets with convolutions around
their transformers (SD 1.x) have 8 heads, those with linear layers (SD 2.x, XL) heads of 64 channels, CLIP heads of 64.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

Shapes = Mapping[str, tuple[int, ...]]
_GROUPS = 32
_HEAD = 64
_TIME_IDS = 256  # channels per number in SDXL's and its refiner's U-Net


class LayoutError(Exception):
    """Tensors that are no network of the kind; the message says which are missing or odd."""


def below(shapes: Shapes, prefix: str) -> dict[str, tuple[int, ...]]:
    """The tensors under a prefix, without it."""
    return {key[len(prefix) :]: shape for key, shape in shapes.items() if key.startswith(prefix)}


def _shape(shapes: Shapes, key: str) -> tuple[int, ...]:
    if key not in shapes:
        raise LayoutError(f"it lacks {key}")
    return shapes[key]


def _count(shapes: Shapes, pattern: str) -> int:
    """How many different numbers stand in the pattern's group."""
    return len({found[1] for key in shapes if (found := re.match(pattern, key))})


def _depth(shapes: Shapes, block: str) -> int:
    return _count(shapes, re.escape(block) + r"\.transformer_blocks\.(\d+)\.")


def _levels(shapes: Shapes) -> Iterator[list[tuple[int, int]]]:
    """Per level of the U-Net's way down: its resnets' channels and the depths of the transformers behind them."""
    level: list[tuple[int, int]] = []
    for index in range(1, _count(shapes, r"input_blocks\.(\d+)\.")):
        block = f"input_blocks.{index}"
        if f"{block}.0.op.weight" in shapes:
            yield level
            level = []
        else:
            channels = _shape(shapes, f"{block}.0.out_layers.3.weight")[0]
            level.append((channels, _depth(shapes, f"{block}.1")))
    yield level


def unet_config(shapes: Shapes, *, pooled: int | None, time_ids: int | None) -> dict[str, Any]:
    """The config of a U-Net in LDM's or SGM's layout.

    Args:
        shapes: without a prefix.
        pooled: width of the pooled prompt that SDXL's U-Net takes, None where no text encoder is at hand.
        time_ids: how many numbers it takes beside that; None likewise.

    Raises:
        LayoutError: tensors that are missing, or of a U-Net that no listed family has.
    """
    out_channels = _shape(shapes, "out.2.weight")[0]
    in_channels = _shape(shapes, "input_blocks.0.0.weight")[1]
    levels = list(_levels(shapes))
    if not all(level and len(set(level)) == 1 and len(level) == len(levels[0]) for level in levels):
        raise LayoutError("the levels of its U-Net are not all built alike, as in a pruned model (SSD-1B, Vega)")
    channels = [level[0][0] for level in levels]
    if any(width % _GROUPS for width in channels):
        raise LayoutError(f"its U-Net has {channels} channels, expected multiples of {_GROUPS}")
    context = [shape[1] for key, shape in shapes.items() if key.endswith(".attn2.to_k.weight")]
    projections = [len(shape) for key, shape in shapes.items() if key.endswith(".1.proj_in.weight")]
    if not context or not projections:
        raise LayoutError("its U-Net attends to no prompt")
    linear = projections[0] == 2
    depths = [level[0][1] for level in levels]
    middle = _depth(shapes, "middle_block.1")
    attends = [depth > 0 for depth in depths]
    # Where a level has no transformers its entry counts for nothing, but the last is that of the middle block, too
    depths = [*(depth or 1 for depth in depths[:-1]), depths[-1] or middle]
    if depths[-1] != middle:
        raise LayoutError(f"its U-Net has {middle} transformer layers in the middle and {depths[-1]} above")
    if linear and any(width % _HEAD for width in channels):
        raise LayoutError(f"its U-Net has {channels} channels, expected multiples of {_HEAD}")
    config: dict[str, Any] = {
        "_class_name": "UNet2DConditionModel",
        "in_channels": in_channels,
        "out_channels": out_channels,
        "block_out_channels": channels,
        "layers_per_block": len(levels[0]),
        "cross_attention_dim": context[0],
        "attention_head_dim": [width // _HEAD for width in channels] if linear else 8,
        "use_linear_projection": linear,
        "transformer_layers_per_block": depths if set(depths) != {1} else 1,
        "down_block_types": ["CrossAttnDownBlock2D" if here else "DownBlock2D" for here in attends],
        "up_block_types": ["CrossAttnUpBlock2D" if here else "UpBlock2D" for here in reversed(attends)],
        "norm_num_groups": _GROUPS,
    }
    guidance = [shapes[key] for key in GUIDANCE_EMBEDDING if key in shapes]
    if guidance:
        config["time_cond_proj_dim"] = guidance[0][1]
    if "label_emb.0.0.weight" in shapes:
        config |= _added_embedding(shapes["label_emb.0.0.weight"][1], pooled, time_ids)
    return config


# LDM has no name for LCM's embedding of the guidance scale: converters move it or leave it as diffusers calls it
GUIDANCE_EMBEDDING = ("time_embed.cond_proj.weight", "time_embedding.cond_proj.weight")


def _added_embedding(width: int, pooled: int | None, time_ids: int | None) -> dict[str, Any]:
    """SDXL's embedding of the pooled prompt and of some numbers, side by side."""
    if pooled is None or time_ids is None:
        # 1280 + 6 · 256 in SDXL, 1280 + 5 · 256 in its refiner
        pooled, time_ids = 1280, (width - 1280) // _TIME_IDS
    per_number, odd = divmod(width - pooled, time_ids or 1)
    if odd or per_number <= 0:
        raise LayoutError(
            f"its U-Net takes {width} numbers beside the prompt, expected {pooled} of the text encoder and "
            f"{time_ids} embeddings of sizes"
        )
    return {
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": per_number,
        "projection_class_embeddings_input_dim": width,
    }


def vae_config(shapes: Shapes) -> dict[str, Any]:
    """The config of an autoencoder, in LDM's names without a prefix or in diffusers' own.

    Raises:
        LayoutError: tensors that are missing.
    """
    ours = "encoder.down_blocks.0.resnets.0.conv1.weight" in shapes
    level, block = ("encoder.down_blocks", "resnets") if ours else ("encoder.down", "block")
    levels = _count(shapes, rf"{re.escape(level)}\.(\d+)\.")
    channels = [_shape(shapes, f"{level}.{index}.{block}.0.conv1.weight")[0] for index in range(levels)]
    if not channels:
        raise LayoutError(f"it lacks {level}.0.{block}.0.conv1.weight")
    if any(width % _GROUPS for width in channels):
        raise LayoutError(f"its VAE has {channels} channels, expected multiples of {_GROUPS}")
    return {
        "_class_name": "AutoencoderKL",
        "in_channels": _shape(shapes, "encoder.conv_in.weight")[1],
        "out_channels": _shape(shapes, "decoder.conv_out.weight")[0],
        "latent_channels": _shape(shapes, "decoder.conv_in.weight")[1],
        "block_out_channels": channels,
        "layers_per_block": _count(shapes, rf"{re.escape(level)}\.0\.{block}\.(\d+)\."),
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "norm_num_groups": _GROUPS,
    }


def clip_config(shapes: Shapes) -> dict[str, Any]:
    """The config of CLIP ViT-L's text encoder in transformers' names, with or without ``text_model.``.

    Raises:
        LayoutError: tensors that are missing.
    """
    shapes = {key.removeprefix("text_model."): shape for key, shape in shapes.items()}
    rows, width = _shape(shapes, "embeddings.token_embedding.weight")
    return _text_config(
        rows=rows,
        width=width,
        positions=_shape(shapes, "embeddings.position_embedding.weight")[0],
        layers=_count(shapes, r"encoder\.layers\.(\d+)\."),
        hidden=_shape(shapes, "encoder.layers.0.mlp.fc1.weight")[0],
        projection=width,
        act="quick_gelu",
    )


def open_clip_config(shapes: Shapes, *, whole: bool) -> dict[str, Any]:
    """The config of an OpenCLIP text encoder.

    Args:
        shapes: without a prefix.
        whole: as SDXL takes it; else, as SD 2.x does, the state before the last layer is what the model gives, so
            diffusers leaves that layer out, and some files have left it out already.

    Raises:
        LayoutError: tensors that are missing.
    """
    rows, width = _shape(shapes, "token_embedding.weight")
    layers = _count(shapes, r"transformer\.resblocks\.(\d+)\.")
    if not whole and (layers == 24 or "text_projection" in shapes):
        layers = 23 if layers in (23, 24) else layers - 1
    return _text_config(
        rows=rows,
        width=width,
        positions=_shape(shapes, "positional_embedding")[0],
        layers=layers,
        hidden=_shape(shapes, "transformer.resblocks.0.mlp.c_fc.weight")[0],
        projection=_shape(shapes, "text_projection")[1] if whole else width,
        act="gelu",
    )


def _text_config(
    *, rows: int, width: int, positions: int, layers: int, hidden: int, projection: int, act: str
) -> dict[str, Any]:
    if width % _HEAD:
        raise LayoutError(f"its text encoder is {width} wide, expected a multiple of {_HEAD}")
    return {
        "vocab_size": rows,
        "hidden_size": width,
        "intermediate_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": width // _HEAD,
        "max_position_embeddings": positions,
        "hidden_act": act,
        "projection_dim": projection,
        "bos_token_id": 0,
        "eos_token_id": 2,  # as in SD's files; transformers then pools at the highest id, which is the end token's
        "pad_token_id": 1,
    }


def unet_tensors(tensors: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """A U-Net's tensors, without a prefix, in diffusers' names."""
    from diffusers.loaders.single_file_utils import LDM_UNET_KEY, convert_ldm_unet_checkpoint

    converted = dict(convert_ldm_unet_checkpoint({LDM_UNET_KEY + key: t for key, t in tensors.items()}, config))
    for key in GUIDANCE_EMBEDDING:
        if key in tensors:
            converted["time_embedding.cond_proj.weight"] = tensors[key]
    return converted


# Of the time before AutoencoderKL shared its attention with the U-Nets
_OLD_ATTENTION = (("query.", "to_q."), ("key.", "to_k."), ("value.", "to_v."), ("proj_attn.", "to_out.0."))


def vae_tensors(tensors: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """An autoencoder's tensors, without a prefix, in diffusers' names."""
    if "encoder.down_blocks.0.resnets.0.conv1.weight" in tensors:
        return diffusers_vae_tensors(tensors)
    from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

    return dict(convert_ldm_vae_checkpoint(dict(tensors), config))


def diffusers_vae_tensors(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """An autoencoder's tensors in diffusers' names, whose attention may have those of earlier releases."""
    renamed = dict(tensors)
    for key in [key for key in tensors if ".attentions." in key]:
        name = key
        for old, new in _OLD_ATTENTION:
            name = name.replace(f".{old}", f".{new}")
        renamed[name] = renamed.pop(key)
    return renamed


def clip_tensors(tensors: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """The text encoder's tensors in transformers' names; positions' numbers, which old files list, are left out."""
    return {key.removeprefix("text_model."): tensor for key, tensor in tensors.items() if "position_ids" not in key}


def open_clip_tensors(tensors: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """An OpenCLIP text encoder's tensors in transformers' names; layers that the config leaves out are left out."""
    from diffusers.loaders.single_file_utils import convert_open_clip_checkpoint

    class _Model:  # what the converter asks of the module
        class config:  # noqa: N801
            hidden_size: int

    _Model.config.hidden_size = config["hidden_size"]
    kept = {key: t for key, t in tensors.items() if not is_left_out(key, config["num_hidden_layers"])}
    # The converter knows SD 2.x's own prefix and leaves out what that model does without
    return dict(convert_open_clip_checkpoint(_Model, kept, prefix=""))


def is_left_out(key: str, layers: int) -> bool:
    """Whether an OpenCLIP text encoder of some layers does without a tensor."""
    found = re.match(r"transformer\.resblocks\.(\d+)\.", key)
    return (found is not None and int(found[1]) >= layers) or key in ("logit_scale", "attn_mask")
