"""An autoencoder whose decoder works along time, in SGM's names: its config, and its tensors in diffusers' names.

The encoder is that of SD's autoencoder; every residual block of the decoder has a second half, ``time_stack``, and a
number that mixes both (sgm/modules/autoencoding/temporal_ae.py).
"""

import re
from collections.abc import Mapping
from typing import Any

from latentrt.export.sources.single_file.ldm_layout import Shapes, renamed, shape_of, vae_config, vae_tensors
from latentrt.export.sources.single_file.temporal_unet import RESNET

MARK = "decoder.mid.block_1.time_stack.in_layers.2.weight"
_LAST = "decoder.conv_out.time_mix_conv."
_PLAIN_BLOCK = re.compile(r"(decoder\.(?:mid_block|up_blocks\.\d+)\.resnets\.\d+\.)")
_BLOCK = re.compile(r"decoder\.(mid|up)\.(?:block_(\d)|(\d+)\.block\.(\d+))\.(time_stack\.|mix_factor$)(.*)")


def temporal_vae_config(shapes: Shapes) -> dict[str, Any]:
    """The config of an autoencoder with a temporal decoder, in SGM's names without a prefix.

    Raises:
        LayoutError: tensors that are missing.
    """
    shape_of(shapes, f"{_LAST}weight", 5)
    plain = vae_config(shapes)
    names = ("in_channels", "out_channels", "latent_channels", "block_out_channels", "layers_per_block")
    return {
        "_class_name": "AutoencoderKLTemporalDecoder",
        **{name: plain[name] for name in names},
        "down_block_types": plain["down_block_types"],
    }


def temporal_vae_tensors(tensors: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """The autoencoder's tensors in diffusers' names.

    SGM's engine has no convolution behind the encoder, which then is the identity.
    """
    levels = len(config["block_out_channels"])
    temporal = {key: name for key in tensors if (name := _temporal_name(key, levels)) is not None}
    plain = {key: tensor for key, tensor in tensors.items() if key not in temporal}
    # The converter of plain autoencoders reads these from the config
    settings = {**config, "up_block_types": ["UpDecoderBlock2D"] * levels}
    found = {
        _PLAIN_BLOCK.sub(r"\1spatial_res_block.", key): tensor for key, tensor in vae_tensors(plain, settings).items()
    }
    found |= {name: tensors[key] for key, name in temporal.items()}
    if "quant_conv.weight" not in found and "encoder.conv_out.weight" in found:
        found |= _identity(found["encoder.conv_out.weight"])
    return found


def _identity(like: Any) -> dict[str, Any]:
    import torch

    channels = like.shape[0]
    eye = torch.eye(channels, dtype=like.dtype, device=like.device)
    return {"quant_conv.weight": eye[:, :, None, None], "quant_conv.bias": like.new_zeros(channels)}


def _temporal_name(key: str, levels: int) -> str | None:
    """Diffusers' name of a tensor that works along time; None for every other."""
    if key.startswith(_LAST):
        return f"decoder.time_conv_out.{key.removeprefix(_LAST)}"
    found = _BLOCK.fullmatch(key)
    if found is None:
        return None
    where, middle, level, layer, kind, rest = found.groups()
    if where == "mid":
        block = f"decoder.mid_block.resnets.{int(middle) - 1}"
    else:
        block = f"decoder.up_blocks.{levels - 1 - int(level)}.resnets.{layer}"
    if kind == "mix_factor":
        return f"{block}.time_mixer.mix_factor"
    return f"{block}.temporal_res_block.{renamed(rest, RESNET)}"
