"""Nets in the names of their first code: ControlNet's, T2I-Adapter's, and Control-LoRAs; written here, for tests."""

from collections.abc import Mapping
from pathlib import Path

import torch
from single_files import Tensors, ldm_unet

_OURS = ("controlnet_cond_embedding.", "controlnet_down_blocks.", "controlnet_mid_block.")
RANK = 3


def ldm_control(tensors: Mapping[str, torch.Tensor], layers: int) -> Tensors:
    """A control net's tensors as cldm/cldm.py names them."""
    found = ldm_unet({key: tensor for key, tensor in tensors.items() if not key.startswith(_OURS)}, layers)
    hints = sum(key.startswith("controlnet_cond_embedding.blocks.") for key in tensors) // 2
    for key, tensor in tensors.items():
        head, _, rest = key.partition(".")
        if head == "controlnet_mid_block":
            found[f"middle_block_out.0.{rest}"] = tensor
        elif head == "controlnet_down_blocks":
            index, _, rest = rest.partition(".")
            found[f"zero_convs.{index}.0.{rest}"] = tensor
        elif head == "controlnet_cond_embedding":  # an activation follows every convolution but the last
            name, _, rest = rest.partition(".")
            place = {"conv_in": 0, "conv_out": hints + 1}.get(name)
            if place is None:
                index, _, rest = rest.partition(".")
                place = int(index) + 1
            found[f"input_hint_block.{2 * place}.{rest}"] = tensor
    return found


def control_lora(net: Mapping[str, torch.Tensor], layers: int) -> Tensors:
    """A Control-LoRA: low ranks in place of a net's matrices and convolutions, and all else of it in full."""
    generator = torch.Generator().manual_seed(8)
    found: Tensors = {"lora_controlnet": torch.zeros(0)}
    for key, tensor in ldm_control(net, layers).items():
        whole = key.startswith(("input_hint_block.", "zero_convs.", "middle_block_out.")) or tensor.ndim < 2
        if whole or not key.endswith(".weight"):
            found[key] = tensor
            continue
        shapes = {"up": (tensor.shape[0], RANK, *(1,) * (tensor.ndim - 2)), "down": (RANK, *tensor.shape[1:])}
        for name, shape in shapes.items():
            found[key.replace("weight", name)] = 0.1 * torch.randn(shape, generator=generator)
    return found


def original_adapter(tensors: Mapping[str, torch.Tensor], per_level: int) -> Tensors:
    """A T2I-Adapter's tensors as its authors number its blocks."""
    light = any(".out_conv." in key for key in tensors)
    found = {}
    for key, tensor in tensors.items():
        parts = key.removeprefix("adapter.").split(".")
        if parts[0] == "body" and parts[2] == "resnets":
            level, layer, rest = parts[1], parts[3], parts[4:]
            middle = [level, "body", layer] if light else [str(int(level) * per_level + int(layer))]
            parts = ["body", *middle, *rest]
        elif parts[0] == "body" and not light:
            parts[1] = str(int(parts[1]) * per_level)
        found[".".join(parts)] = tensor
    return found


def saved(folder: Path) -> Tensors:
    """The tensors that diffusers saved in a folder."""
    from safetensors.torch import load_file

    return load_file(folder / "diffusion_pytorch_model.safetensors")
