"""Models that are told a picture, turned back to their authors' single files, written from those projects' modules.

Of Stable Video Diffusion (Stability-AI/generative-models), Zero123 (cvlab-columbia/zero123) and InstructPix2Pix.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from single_files import Tensors, below, ldm_unet, ldm_vae, weights_in

_TEMPORAL = "temporal_res_block."
_SPATIAL = "spatial_res_block."
_ALONG_TIME = (
    (".temporal_transformer_blocks.", ".time_stack."),
    (".time_pos_embed.linear_1.", ".time_pos_embed.0."),
    (".time_pos_embed.linear_2.", ".time_pos_embed.2."),
)
_STACK = (
    ("norm1.", "in_layers.0."),
    ("conv1.", "in_layers.2."),
    ("norm2.", "out_layers.0."),
    ("conv2.", "out_layers.3."),
)
OPEN_CLIP = "conditioner.embedders.0.open_clip.model."
CLIP = "cond_stage_model.model."
SECOND_ENCODER = "conditioner.embedders.3.encoder."


def sgm_unet(tensors: Mapping[str, torch.Tensor], layers: int) -> Tensors:
    """A spatio-temporal U-Net's tensors as sgm/modules/diffusionmodules/video_model.py names them."""
    plain = {key.replace(_SPATIAL, ""): tensor for key, tensor in tensors.items() if _TEMPORAL not in key}
    along = {key.replace(_TEMPORAL, ""): tensor for key, tensor in tensors.items() if _TEMPORAL in key}
    found: Tensors = {}
    for key, tensor in ldm_unet(plain, layers).items():
        for ours, theirs in _ALONG_TIME:
            key = key.replace(ours, theirs)
        found[key] = tensor
    for key, tensor in ldm_unet(along, layers).items():
        found[re.sub(r"^((?:input|output)_blocks\.\d+\.0|middle_block\.\d)\.", r"\1.time_stack.", key)] = tensor
    return found


def sgm_vae(tensors: Mapping[str, torch.Tensor]) -> Tensors:
    """An autoencoder's with a temporal decoder as sgm/modules/autoencoding/temporal_ae.py names them."""
    last = "decoder.time_conv_out."
    plain = {key.replace(_SPATIAL, ""): tensor for key, tensor in tensors.items() if not _is_along_time(key)}
    levels = 1 + max(int(key.split(".")[2]) for key in tensors if key.startswith("encoder.down_blocks."))
    found = ldm_vae(plain)
    for key, tensor in tensors.items():
        if key.startswith(last):
            found[f"decoder.conv_out.time_mix_conv.{key.removeprefix(last)}"] = tensor
        elif _is_along_time(key):
            found[_along_time(key, levels)] = tensor
    return found


def _is_along_time(key: str) -> bool:
    return key.startswith("decoder.") and any(mark in key for mark in (_TEMPORAL, ".time_mixer.", ".time_conv_out."))


def _along_time(key: str, levels: int) -> str:
    """Diffusers counts the decoder's levels from the innermost."""
    mid, up = (
        re.match(r"decoder\.mid_block\.resnets\.(\d+)\.", key),
        re.match(r"decoder\.up_blocks\.(\d+)\.resnets\.(\d+)\.", key),
    )
    if mid:
        block, rest = f"decoder.mid.block_{int(mid[1]) + 1}.", key[mid.end() :]
    else:
        assert up is not None
        block, rest = f"decoder.up.{levels - 1 - int(up[1])}.block.{up[2]}.", key[up.end() :]
    if rest == "time_mixer.mix_factor":
        return f"{block}mix_factor"
    rest = rest.removeprefix(_TEMPORAL)
    ours, theirs = next(pair for pair in _STACK if rest.startswith(pair[0]))
    return f"{block}time_stack.{theirs}{rest.removeprefix(ours)}"


def clip_visual(tensors: Mapping[str, torch.Tensor]) -> Tensors:
    """A picture encoder's as clip/model.py and open_clip/transformer.py name them: queries, keys and values in one."""
    bare = {key.removeprefix("vision_model."): tensor for key, tensor in tensors.items() if "position_ids" not in key}
    found = {
        "class_embedding": bare["embeddings.class_embedding"],
        "conv1.weight": bare["embeddings.patch_embedding.weight"],
        "positional_embedding": bare["embeddings.position_embedding.weight"],
        "proj": bare["visual_projection.weight"].T.contiguous(),
    }
    norms = (("pre_layrnorm", "ln_pre"), ("post_layernorm", "ln_post"))
    found |= {f"{new}.{kind}": bare[f"{old}.{kind}"] for old, new in norms for kind in ("weight", "bias")}
    layers = 1 + max(int(key.split(".")[2]) for key in bare if key.startswith("encoder.layers."))
    for layer in range(layers):
        ours, theirs = f"encoder.layers.{layer}.", f"transformer.resblocks.{layer}."
        for kind in ("weight", "bias"):
            found[f"{theirs}attn.in_proj_{kind}"] = torch.cat(
                [bare[f"{ours}self_attn.{name}_proj.{kind}"] for name in "qkv"]
            )
            pairs = ("self_attn.out_proj", "attn.out_proj"), ("layer_norm1", "ln_1"), ("layer_norm2", "ln_2")
            for old, new in (*pairs, ("mlp.fc1", "mlp.c_fc"), ("mlp.fc2", "mlp.c_proj")):
                found[f"{theirs}{new}.{kind}"] = bare[f"{ours}{old}.{kind}"]
    return found


def text_half(width: int = 8) -> Tensors:
    """What both projects leave of CLIP's other half when they take its transformer away."""
    return {
        "positional_embedding": torch.zeros(77, width),
        "text_projection": torch.zeros(width, width),
        "token_embedding.weight": torch.zeros(50, width),
        "ln_final.weight": torch.zeros(width),
        "ln_final.bias": torch.zeros(width),
        "logit_scale": torch.tensor(4.6),
    }


def svd_tensors(folder: Path) -> Tensors:
    """A folder's model as ``svd.safetensors``."""
    return svd_of_parts(*(weights_in(folder / part) for part in ("unet", "vae", "image_encoder")), _layers(folder))


def svd_of_parts(
    unet: Mapping[str, torch.Tensor],
    vae: Mapping[str, torch.Tensor],
    image_encoder: Mapping[str, torch.Tensor],
    layers: int,
) -> Tensors:
    """The same of its parts: the encoder of the picture's latents is an autoencoder of its own, which is whole."""
    named = sgm_vae(vae)
    # The engine has no convolution behind its encoder; here it has another encoder, so that a mistake shows
    first = {
        key: 2 * tensor if key.startswith("encoder.") else tensor for key, tensor in named.items() if "quant" not in key
    }
    second = {key: tensor for key, tensor in named.items() if not key.startswith("decoder.")}
    second |= {"decoder.conv_in.weight": torch.zeros(1), "post_quant_conv.weight": torch.zeros(1)}
    return {
        **below("model.diffusion_model.", sgm_unet(unet, layers)),
        **below("first_stage_model.", first),
        **below(SECOND_ENCODER, second),
        **below(f"{OPEN_CLIP}visual.", clip_visual(image_encoder)),
        **below(OPEN_CLIP, text_half()),
    }


def view_tensors(folder: Path) -> Tensors:
    """A folder's model as ``stable_zero123.ckpt`` and its relatives; without a projection one of variations."""
    parts = [weights_in(folder / part) for part in ("unet", "vae", "image_encoder", "cc_projection")]
    return view_of_parts(*parts, _layers(folder))


def view_of_parts(
    unet: Mapping[str, torch.Tensor],
    vae: Mapping[str, torch.Tensor],
    image_encoder: Mapping[str, torch.Tensor],
    projection: Mapping[str, torch.Tensor],
    layers: int,
) -> Tensors:
    """The same of its parts."""
    return {
        **below("model.diffusion_model.", ldm_unet(unet, layers)),
        **below("first_stage_model.", ldm_vae(vae)),
        **below(f"{CLIP}visual.", clip_visual(image_encoder)),
        **below(CLIP, text_half()),
        **below("cc_projection.", {key.removeprefix("projection."): tensor for key, tensor in projection.items()}),
    }


def _layers(folder: Path) -> int:
    return int(json.loads((folder / "unet" / "config.json").read_text())["layers_per_block"])
