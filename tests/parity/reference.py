"""The diffusers side of the parity tests: the same request, answered by torch and diffusers."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from latentrt.engines.spec import Array

# Each of our samplers as a diffusers class with keywords. DDIM's class clips x₀ to [−1, 1] unless told otherwise,
# which is meant for pixels; SD 1.5's own scheduler file says false.
SCHEDULERS: dict[str, tuple[str, dict[str, Any]]] = {
    "ddim": ("DDIMScheduler", {"clip_sample": False}),
    "euler": ("EulerDiscreteScheduler", {}),
    "euler_k": ("EulerDiscreteScheduler", {"use_karras_sigmas": True}),
    "euler_a": ("EulerAncestralDiscreteScheduler", {}),
    "dpmpp_2m": ("DPMSolverMultistepScheduler", {}),
    "dpmpp_2m_k": ("DPMSolverMultistepScheduler", {"use_karras_sigmas": True}),
}


@dataclass(frozen=True)
class Reference:
    """What diffusers drew: latents (N, C, h, w) and pixels (N, H, W, 3) in [0, 1]."""

    latents: Array
    pixels: Array


def scheduler_for(sampler: str, config: Any, **changes: object) -> Any:
    """The diffusers scheduler that a sampler's name stands for, over a model's config."""
    import diffusers

    name, keywords = SCHEDULERS[sampler]
    return getattr(diffusers, name).from_config(config, **keywords, **changes)


class DiffusersReference:
    """A checkpoint's diffusers pipelines, text-to-image and image-to-image over the same modules."""

    def __init__(self, checkpoint: Path) -> None:
        from diffusers import StableDiffusionImg2ImgPipeline, StableDiffusionPipeline

        self.text: Any = StableDiffusionPipeline.from_pretrained(checkpoint, torch_dtype=torch.float32)
        self.text.set_progress_bar_config(disable=True)
        self.config = self.text.scheduler.config
        self.image: Any = StableDiffusionImg2ImgPipeline(**self.text.components, requires_safety_checker=False)
        self.image.set_progress_bar_config(disable=True)

    def draw(
        self,
        *,
        prompt: str | list[str],
        negative_prompt: str | list[str] | None,
        sampler: str,
        changes: dict[str, object],
        steps: int,
        guidance_scale: float,
        seeds: int | list[int],
        size: tuple[int, int],
        image: Image.Image | None = None,
        strength: float | None = None,
    ) -> Reference:
        """Draws with diffusers; seeds are one generator for the batch or one each, as in our pipeline."""
        scheduler = scheduler_for(sampler, self.config, **changes)
        generator = (
            torch.Generator().manual_seed(seeds)
            if isinstance(seeds, int)
            else [torch.Generator().manual_seed(seed) for seed in seeds]
        )
        common = {
            "prompt": prompt,
            "negative_prompt": negative_prompt,
            "num_inference_steps": steps,
            "guidance_scale": guidance_scale,
            "generator": generator,
            "output_type": "latent",
        }
        if image is None:
            self.text.scheduler = scheduler
            latents = self.text(**common, width=size[0], height=size[1]).images
        else:
            self.image.scheduler = scheduler
            latents = self.image(**common, image=image, strength=strength).images
        with torch.inference_mode():
            decoded = self.text.vae.decode(latents / self.text.vae.config.scaling_factor, return_dict=False)[0]
        pixels = self.text.image_processor.postprocess(decoded, output_type="np")
        return Reference(latents.numpy(), pixels)

    def schedule(self, sampler: str, changes: dict[str, object], steps: int) -> Array:
        """The timesteps that diffusers visits."""
        scheduler = scheduler_for(sampler, self.config, **changes)
        scheduler.set_timesteps(steps)
        return np.asarray(scheduler.timesteps.numpy())
