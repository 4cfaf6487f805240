"""What the spatio-temporal U-Net and the temporal decoder share: residual blocks over frames (arXiv 2311.15127)."""

from typing import Any

import torch
from torch import nn


def mixed(mixer: Any, spatial: torch.Tensor, temporal: torch.Tensor) -> torch.Tensor:
    """Both, weighted by the mixer's one number; no frame is a picture that stands alone.

    The U-Net's number weighs what is spatial, the decoder's what is temporal.
    """
    weight = mixer.mix_factor if mixer.merge_strategy == "fixed" else torch.sigmoid(mixer.mix_factor)
    if mixer.switch_spatial_to_temporal_mix:
        weight = 1.0 - weight
    return weight * spatial + (1.0 - weight) * temporal


def residual(block: Any, x: torch.Tensor, count: int, frames: int, time: torch.Tensor | None = None) -> torch.Tensor:
    """A residual block over each frame, and one over all frames of a video.

    Args:
        block: the library's.
        x: (videos · frames, C, h, w).
        count: videos.
        frames: of each.
        time: (videos, width) of the embedded timestep, or None.
    """
    each = None if time is None else time[:, None].expand(-1, frames, -1).flatten(0, 1)
    x = block.spatial_res_block(x, each)
    videos = x.unflatten(0, (count, frames)).transpose(1, 2)
    moved = block.temporal_res_block(videos, None if time is None else time[:, None])
    return mixed(block.time_mixer, videos, moved).transpose(1, 2).flatten(0, 1)


def upsampled(layers: nn.ModuleList | None, x: torch.Tensor) -> torch.Tensor:
    """Twice the size, as diffusers does it but for a branch of large batches, which a tracer would take for a guard."""
    for layer in layers or ():
        x = layer.conv(nn.functional.interpolate(x, scale_factor=2.0, mode="nearest"))
    return x
