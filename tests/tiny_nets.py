"""Tiny random control nets and T2I-Adapters for the tiny checkpoints, as diffusers saves them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

HINTS = (16, 32)  # halved once, as the tiny autoencoders halve pictures


def randomised(module: Any, seed: int = 3, scale: float = 0.1) -> Any:
    """A module without zero convolutions: what a net begins its training with would show nothing."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        if not parameter.abs().sum():
            parameter.data = scale * torch.randn(parameter.shape, generator=generator)
    return module.eval()


def control_net_of(checkpoint: Path, *, hints: tuple[int, ...] = HINTS, **settings: Any) -> Any:
    """A ``ControlNetModel`` for a tiny checkpoint: its U-Net's way down, and random convolutions.

    The hint is halved once less than ``hints`` has numbers.
    """
    import diffusers

    unet = diffusers.UNet2DConditionModel.from_pretrained(checkpoint / "unet")
    torch.manual_seed(2)
    net = diffusers.ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=hints)
    if net.config.in_channels != 4 or settings:  # nets are given latents alone
        kept = {key: value for key, value in net.config.items() if key != "_use_default_values"}
        net = diffusers.ControlNetModel.from_config({**kept, "in_channels": 4, **settings})
    return randomised(net)


def save_control_net(folder: Path, checkpoint: Path, **settings: Any) -> Path:
    """Saves one with settings over those of its config; returns the folder."""
    control_net_of(checkpoint, **settings).save_pretrained(folder)
    return folder


def save_union_net(folder: Path, checkpoint: Path, *, types: int = 6) -> Path:
    """Saves a ``ControlNetUnionModel`` for a tiny checkpoint of SDXL."""
    import diffusers

    plain = control_net_of(checkpoint).config
    known = diffusers.ControlNetUnionModel.__init__.__wrapped__.__code__.co_varnames  # type: ignore[attr-defined]
    config = {key: value for key, value in plain.items() if key in known and not key.startswith("_")}
    torch.manual_seed(4)
    width = config["block_out_channels"][0]
    union = diffusers.ControlNetUnionModel(
        **{**config, "num_control_type": types, "num_trans_channel": width, "num_proj_channel": width}
    )
    randomised(union).save_pretrained(folder)
    return folder


def save_t2i_adapter(folder: Path, **settings: Any) -> Path:
    """Saves a ``T2IAdapter``; without settings one for the tiny checkpoint of SD 1.x."""
    import diffusers

    torch.manual_seed(5)
    defaults: Mapping[str, Any] = {"channels": [32, 64], "num_res_blocks": 1, "downscale_factor": 2}
    diffusers.T2IAdapter(**{**defaults, **settings}).save_pretrained(folder)
    return folder
