"""The other side of the parity tests of views: the libraries' own modules, driven by a loop.

diffusers has no class for Zero123. Here its U-Net, autoencoder and schedulers and transformers' image encoder do the
work; the order of things is that of the authors' demo (``gradio_new.py`` and ``ddpm.py`` of cvlab-columbia/zero123) and
of diffusers' community pipeline ``pipeline_zero1to3.py``.
"""

import json
from collections.abc import Sequence
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import torch
from parity.reference import Reference, scheduler_for
from PIL import Image
from safetensors.torch import load_file
from torch.nn import functional

from latentrt.runtime.sampling.samplers import Sampler

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
Pose = tuple[float, float, float, float]


class ViewReference:
    """A checkpoint's modules, and the loop around them."""

    def __init__(self, checkpoint: Path) -> None:
        import diffusers
        import transformers

        self.unet: Any = diffusers.UNet2DConditionModel.from_pretrained(checkpoint / "unet")
        self.vae: Any = diffusers.AutoencoderKL.from_pretrained(checkpoint / "vae")
        self.encoder: Any = transformers.CLIPVisionModelWithProjection.from_pretrained(checkpoint / "image_encoder")
        self.projection = load_file(checkpoint / "cc_projection" / "diffusion_pytorch_model.safetensors")
        self.scheduler = json.loads((checkpoint / "scheduler" / "scheduler_config.json").read_text("utf-8"))

    @torch.inference_mode()
    def draw(
        self,
        image: Image.Image,
        poses: Sequence[Pose],
        *,
        seeds: int | list[int],
        size: tuple[int, int],
        steps: int,
        sampler: str | Sampler = "ddim",
        guidance_scale: float = 3.0,
        latent_scale: float = 1.0,
        antialias: bool = False,
    ) -> Reference:
        """Draws a view for each pose.

        Args:
            image: what is seen.
            poses: the four numbers of each view.
            seeds: one generator for all views, or one each.
            size: width and height in pixels.
            steps: of the sampler.
            sampler: one of ours, for whose class see ``scheduler_for``.
            guidance_scale: above 1 the unconditional half counts.
            latent_scale: of the picture's latents: 1, or on purpose another.
            antialias: whether CLIP's picture is resized with it: not, or on purpose.
        """
        from diffusers.utils.torch_utils import randn_tensor

        sampler = Sampler(name=sampler) if isinstance(sampler, str) else sampler
        scheduler = scheduler_for(sampler, self.scheduler)
        scheduler.set_timesteps(steps)
        pixels, count = picture_tensor(image, size), len(poses)
        tokens = self.tokens(pixels, poses, antialias=antialias)
        behind = (self.vae.encode(pixels).latent_dist.mode() * latent_scale).expand(count, -1, -1, -1)
        generators: Any = [torch.Generator().manual_seed(one) for one in np.atleast_1d(seeds).tolist()]
        generator = generators[0] if isinstance(seeds, int) else generators
        x = randn_tensor(tuple(behind.shape), generator=generator) * scheduler.init_noise_sigma
        known = signature(scheduler.step).parameters
        given = {"generator": generator, "eta": sampler.eta or 0.0}
        keywords = {name: value for name, value in given.items() if name in known}
        for timestep in scheduler.timesteps:
            scaled = scheduler.scale_model_input(x, timestep)
            prediction = self.unet(torch.cat([scaled, behind], 1), timestep, tokens).sample
            if guidance_scale > 1.0:
                nothing = torch.cat([scaled, torch.zeros_like(behind)], 1)
                against = self.unet(nothing, timestep, torch.zeros_like(tokens)).sample
                prediction = against + guidance_scale * (prediction - against)
            x = scheduler.step(prediction, timestep, x, **keywords).prev_sample
        decoded = self.vae.decode(x / self.vae.config.scaling_factor).sample
        return Reference(x.numpy(), (decoded / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).numpy())

    def tokens(self, pixels: torch.Tensor, poses: Sequence[Pose], *, antialias: bool = False) -> torch.Tensor:
        """What the U-Net attends to: (N, 1, width)."""
        side = self.encoder.config.image_size
        seen = functional.interpolate(pixels, (side, side), mode="bicubic", align_corners=True, antialias=antialias)
        mean, std = (torch.tensor(one).view(1, 3, 1, 1) for one in (MEAN, STD))
        embeds = self.encoder(((seen + 1) / 2 - mean) / std).image_embeds.expand(len(poses), -1)
        told = torch.cat([embeds, torch.tensor(poses, dtype=torch.float32)], 1)
        weight, bias = self.projection["projection.weight"], self.projection["projection.bias"]
        return functional.linear(told, weight, bias)[:, None]


def picture_tensor(image: Image.Image, size: tuple[int, int]) -> torch.Tensor:
    """(1, 3, H, W) in [−1, 1], white behind what is transparent."""
    layer = image.convert("RGBA")
    rgb = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    array = np.asarray(rgb.resize(size, Image.Resampling.LANCZOS), np.float32)
    return torch.from_numpy(array / 127.5 - 1.0).permute(2, 0, 1)[None]
