"""CLIP's picture encoder in the names of OpenAI and of OpenCLIP: its config, and its tensors in transformers' names."""

from collections.abc import Mapping
from math import isqrt
from typing import Any

from latentrt.export.sources.single_file.ldm_layout import HEAD, LayoutError, Shapes, count, renamed, shape_of

_HEADS = 16  # of ViT-L, ViT-H and ViT-bigG
_WIDTHS = (1024, 1280, 1664)  # of these
_TOPS = {
    "class_embedding": "vision_model.embeddings.class_embedding",
    "conv1.": "vision_model.embeddings.patch_embedding.",
    "positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "ln_pre.": "vision_model.pre_layrnorm.",
    "ln_post.": "vision_model.post_layernorm.",
    "transformer.resblocks.": "vision_model.encoder.layers.",
}
_LAYER = (
    ("attn.out_proj.", "self_attn.out_proj."),
    ("ln_1.", "layer_norm1."),
    ("ln_2.", "layer_norm2."),
    ("mlp.c_fc.", "mlp.fc1."),
    ("mlp.c_proj.", "mlp.fc2."),
)
_FUSED = ".attn.in_proj_"  # queries, keys and values in one matrix
_PROJECTION = "proj"


def clip_vision_config(shapes: Shapes, *, act: str) -> dict[str, Any]:
    """The config of a picture encoder.

    Args:
        shapes: without a prefix.
        act: its activation, which no tensor tells: ``quick_gelu`` of OpenAI's, ``gelu`` of OpenCLIP's.

    Raises:
        LayoutError: tensors that are missing.
    """
    width, _, patch, _ = shape_of(shapes, "conv1.weight", 4)
    positions = shape_of(shapes, "positional_embedding", 2)[0]
    if width not in _WIDTHS and width % HEAD:
        raise LayoutError(f"its picture encoder is {width} wide, expected a multiple of {HEAD}")
    return {
        "model_type": "clip_vision_model",
        "hidden_size": width,
        "intermediate_size": shape_of(shapes, "transformer.resblocks.0.mlp.c_fc.weight", 2)[0],
        "projection_dim": shape_of(shapes, _PROJECTION, 2)[1],
        "num_hidden_layers": count(shapes, r"transformer\.resblocks\.(\d+)\."),
        "num_attention_heads": _HEADS if width in _WIDTHS else width // HEAD,
        "num_channels": 3,
        "image_size": patch * isqrt(positions - 1),
        "patch_size": patch,
        "hidden_act": act,
    }


def clip_vision_tensors(tensors: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """Its tensors in transformers' names."""
    found: dict[str, Any] = {}
    for key, tensor in tensors.items():
        name = renamed(key, _TOPS)
        if key == _PROJECTION:
            found["visual_projection.weight"] = tensor.T
        elif _FUSED in name:
            layer, _, kind = name.partition(_FUSED)
            for third, part in zip("qkv", tensor.chunk(3), strict=True):
                found[f"{layer}.self_attn.{third}_proj.{kind}"] = part
        else:
            for theirs, ours in _LAYER:
                name = name.replace(f".{theirs}", f".{ours}")
            found[name] = tensor
    return found
