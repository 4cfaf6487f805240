"""Configs of a single file's parts from the names and shapes of its tensors, and their tensors in diffusers' names.

What shapes do not tell is the same in every model of a kind: norms have 32 groups; U-Nets with convolutions around
their transformers (SD 1.x) have 8 heads, those with linear layers (SD 2.x, XL) heads of 64 channels, CLIP heads of 64.
"""

import re
from collections.abc import Mapping
from typing import Any

Shapes = Mapping[str, tuple[int, ...]]
GROUPS = 32
HEAD = 64


class LayoutError(Exception):
    """Tensors that are no network of the kind; the message says which are missing or odd, ``advice`` what to do."""

    def __init__(self, reason: str, advice: str = "choose such a model") -> None:
        super().__init__(reason)
        self.advice = advice


def below(shapes: Shapes, prefix: str) -> dict[str, tuple[int, ...]]:
    """The tensors under a prefix, without it."""
    return {key[len(prefix) :]: shape for key, shape in shapes.items() if key.startswith(prefix)}


def shape_of(shapes: Shapes, key: str, axes: int) -> tuple[int, ...]:
    """A tensor's shape.

    Raises:
        LayoutError: it is missing, or has another number of axes.
    """
    if key not in shapes:
        raise LayoutError(f"it lacks {key}")
    if len(shapes[key]) != axes:
        raise LayoutError(f"its {key} has the shape {list(shapes[key])}, expected {axes} axes")
    return shapes[key]


def count(shapes: Shapes, pattern: str) -> int:
    """How many different numbers stand in the pattern's group."""
    return len({found[1] for key in shapes if (found := re.match(pattern, key))})


def renamed(name: str, beginnings: Mapping[str, str]) -> str:
    """The name with its beginning replaced, if it is listed."""
    for theirs, ours in beginnings.items():
        if name.startswith(theirs):
            return ours + name.removeprefix(theirs)
    return name


def vae_config(shapes: Shapes) -> dict[str, Any]:
    """The config of an autoencoder, in LDM's names without a prefix or in diffusers' own.

    Raises:
        LayoutError: tensors that are missing.
    """
    ours = "encoder.down_blocks.0.resnets.0.conv1.weight" in shapes
    level, block = ("encoder.down_blocks", "resnets") if ours else ("encoder.down", "block")
    levels = count(shapes, rf"{re.escape(level)}\.(\d+)\.")
    channels = [shape_of(shapes, f"{level}.{index}.{block}.0.conv1.weight", 4)[0] for index in range(levels)]
    if not channels:
        raise LayoutError(f"it lacks {level}.0.{block}.0.conv1.weight")
    if any(width % GROUPS for width in channels):
        raise LayoutError(f"its VAE has {channels} channels, expected multiples of {GROUPS}")
    return {
        "_class_name": "AutoencoderKL",
        "in_channels": shape_of(shapes, "encoder.conv_in.weight", 4)[1],
        "out_channels": shape_of(shapes, "decoder.conv_out.weight", 4)[0],
        "latent_channels": shape_of(shapes, "decoder.conv_in.weight", 4)[1],
        "block_out_channels": channels,
        "layers_per_block": count(shapes, rf"{re.escape(level)}\.0\.{block}\.(\d+)\."),
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "norm_num_groups": GROUPS,
    }


def clip_config(shapes: Shapes, *, whole: bool) -> dict[str, Any]:
    """The config of a text encoder in transformers' names, with or without ``text_model.``.

    Args:
        shapes: without a prefix.
        whole: as SDXL takes its second one, with a projection.

    Raises:
        LayoutError: tensors that are missing.
    """
    shapes = {key.removeprefix("text_model."): shape for key, shape in shapes.items()}
    rows, width = shape_of(shapes, "embeddings.token_embedding.weight", 2)
    return _text_config(
        rows=rows,
        width=width,
        positions=shape_of(shapes, "embeddings.position_embedding.weight", 2)[0],
        layers=count(shapes, r"encoder\.layers\.(\d+)\."),
        hidden=shape_of(shapes, "encoder.layers.0.mlp.fc1.weight", 2)[0],
        projection=shape_of(shapes, "text_projection.weight", 2)[0] if whole else width,
        act="gelu" if whole else ACTIVATIONS.get(width, "quick_gelu"),
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
    rows, width = shape_of(shapes, "token_embedding.weight", 2)
    layers = count(shapes, r"transformer\.resblocks\.(\d+)\.")
    if not whole and (layers == 24 or not {"text_projection", _LINEAR_PROJECTION}.isdisjoint(shapes)):
        layers = 23 if layers in (23, 24) else layers - 1
    return _text_config(
        rows=rows,
        width=width,
        positions=shape_of(shapes, "positional_embedding", 2)[0],
        layers=layers,
        hidden=shape_of(shapes, "transformer.resblocks.0.mlp.c_fc.weight", 2)[0],
        projection=_projection(shapes) if whole else width,
        act=ACTIVATIONS.get(width, "gelu"),
    )


def _projection(shapes: Shapes) -> int:
    """How wide an OpenCLIP encoder's pooled state becomes: of a matrix, or of a linear layer, which is transposed."""
    if _LINEAR_PROJECTION in shapes:
        return shape_of(shapes, _LINEAR_PROJECTION, 2)[0]
    return shape_of(shapes, "text_projection", 2)[1]


_LINEAR_PROJECTION = "text_projection.weight"  # as merging tools write it


# By the width: CLIP ViT-L's, and those of OpenCLIP's ViT-H and ViT-bigG
ACTIVATIONS = {768: "quick_gelu", 1024: "gelu", 1280: "gelu"}


def _text_config(
    *, rows: int, width: int, positions: int, layers: int, hidden: int, projection: int, act: str
) -> dict[str, Any]:
    if width % HEAD:
        raise LayoutError(f"its text encoder is {width} wide, expected a multiple of {HEAD}")
    return {
        "vocab_size": rows,
        "hidden_size": width,
        "intermediate_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": width // HEAD,
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


# LDM has no name for LCM's embedding of the guidance scale: converters move it or leave it as diffusers calls it
GUIDANCE_EMBEDDING = ("time_embed.cond_proj.weight", "time_embedding.cond_proj.weight")


# Of the time before AutoencoderKL shared its attention with the U-Nets
_OLD_ATTENTION = (("query.", "to_q."), ("key.", "to_k."), ("value.", "to_v."), ("proj_attn.", "to_out.0."))


def vae_tensors(tensors: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """An autoencoder's tensors, without a prefix, in diffusers' names."""
    if "encoder.down_blocks.0.resnets.0.conv1.weight" in tensors:
        return diffusers_vae_tensors(tensors)
    from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

    return dict(convert_ldm_vae_checkpoint({_ldm_attention(key): t for key, t in tensors.items()}, config))


# Converters from diffusers' names that leave those of the attention, of either time, as they are
_LDM_ATTENTION = (
    *(("to_q.", "q."), ("to_k.", "k."), ("to_v.", "v."), ("to_out.0.", "proj_out."), ("group_norm.", "norm.")),
    *(("query.", "q."), ("key.", "k."), ("value.", "v."), ("proj_attn.", "proj_out.")),
)


def _ldm_attention(key: str) -> str:
    """LDM's name of an autoencoder's tensor."""
    block, dot, rest = key.partition(".attn_1.")
    for foreign, own in _LDM_ATTENTION if dot else ():
        if rest.startswith(foreign):
            return f"{block}{dot}{own}{rest.removeprefix(foreign)}"
    return key


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
    linear = {_LINEAR_PROJECTION: kept.pop(_LINEAR_PROJECTION)} if _LINEAR_PROJECTION in kept else {}
    # The converter knows SD 2.x's own prefix and leaves out what that model does without
    return {**convert_open_clip_checkpoint(_Model, kept, prefix=""), **linear}


def is_left_out(key: str, layers: int) -> bool:
    """Whether an OpenCLIP text encoder of some layers does without a tensor."""
    found = re.match(r"transformer\.resblocks\.(\d+)\.", key)
    return (found is not None and int(found[1]) >= layers) or key in ("logit_scale", "attn_mask")
