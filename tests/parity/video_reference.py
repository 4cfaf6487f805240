"""diffusers' StableVideoDiffusionPipeline over the checkpoint that a bundle was built of."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from parity.reference import Reference
from PIL import Image

from latentrt.engines.spec import Array


class VideoReference:
    """The pipeline, whose image encoder takes pictures of its own size instead of 224 pixels."""

    def __init__(self, checkpoint: Path) -> None:
        from diffusers import StableVideoDiffusionPipeline

        self._pipeline: Any = StableVideoDiffusionPipeline.from_pretrained(checkpoint, torch_dtype=torch.float32)
        self._pipeline.set_progress_bar_config(disable=True)

    def draw(self, image: Any, *, seeds: int | list[int], size: tuple[int, int], **wishes: Any) -> Reference:
        """Latents (N, F, C, h, w) and pixels (N, F, H, W, 3) in [0, 1]."""
        from diffusers.pipelines.stable_video_diffusion import pipeline_stable_video_diffusion as module

        resize, side = module._resize_with_antialiasing, self._pipeline.image_encoder.config.image_size
        found: list[Array] = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, "_resize_with_antialiasing", lambda picture, _: resize(picture, (side, side)))
            for kind in ("latent", "np"):
                shared = isinstance(seeds, int)
                generators = [torch.Generator().manual_seed(one) for one in ([seeds] if shared else seeds)]  # type: ignore[list-item]
                found.append(
                    np.asarray(
                        self._pipeline(
                            image,
                            width=size[0],
                            height=size[1],
                            generator=generators[0] if shared else generators,
                            output_type=kind,
                            **wishes,
                        ).frames
                    )
                )
        return Reference(*found)


def photograph(seed: int, size: tuple[int, int] = (64, 64)) -> Image.Image:
    """A picture of soft colours."""
    colours = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), np.uint8)
    return Image.fromarray(colours).resize(size, Image.Resampling.BICUBIC)
