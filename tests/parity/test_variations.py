"""Variations of a picture against diffusers' pipeline for them."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from parity.reference import scheduler_for
from PIL import Image

import latentrt
from latentrt.engines.bundle.checks.parity import parity_of
from latentrt.runtime.sampling.samplers import Sampler

FAMILY = "sd-image-variations"
LATENT_TOLERANCE = 1e-3
PICTURE_PSNR = 50.0
SIZE = (32, 32)


@pytest.fixture(scope="module")
def reference(picture_checkpoint: Callable[[str], Path]) -> tuple[Any, dict[str, Any]]:
    """diffusers' pipeline, and the settings of the model's own scheduler."""
    import diffusers

    pipeline = diffusers.StableDiffusionImageVariationPipeline.from_pretrained(
        picture_checkpoint(FAMILY), safety_checker=None, requires_safety_checker=False
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline, dict(pipeline.scheduler.config)


@pytest.fixture(scope="module")
def pipe(picture_bundle: Callable[[str], Path]) -> Iterator[latentrt.Pipeline]:
    """Ours."""
    with latentrt.open(picture_bundle(FAMILY), threads=1) as pipe:
        yield pipe


def picture(width: int, height: int) -> Image.Image:
    """A smooth picture with an edge."""
    ramp, fall = np.linspace(0, 255, width, dtype=np.uint8), np.linspace(255, 0, height, dtype=np.uint8)[:, None]
    pixels = np.stack(np.broadcast_arrays(ramp, fall, 255 - ramp), axis=-1).copy()
    pixels[height // 4 : height // 2, width // 4 : width // 2] = (250, 200, 30)
    return Image.fromarray(pixels)


@pytest.mark.parametrize("sampler", ["pndm", "ddim", "dpmpp_2m_k", "euler_a", "heun"])
@pytest.mark.parametrize("guidance", [7.5, 1.0])
@pytest.mark.parametrize("sizes", [[(57, 41)], [(32, 32), (20, 70)]], ids=["one", "two"])
@pytest.mark.parametrize("repeats", [1, 2])
@pytest.mark.grid(most=3)
def test_variations(
    pipe: latentrt.Pipeline,
    reference: tuple[Any, dict[str, Any]],
    sampler: str,
    guidance: float,
    sizes: list[tuple[int, int]],
    repeats: int,
) -> None:
    """Of pictures of any size, whose middles are seen; one generator for all."""
    pictures = [picture(*size) for size in sizes]
    theirs, config = reference
    theirs.scheduler = scheduler_for(Sampler(name=sampler), config)
    common: dict[str, Any] = {
        "num_inference_steps": 5,
        "guidance_scale": guidance,
        "num_images_per_prompt": repeats,
        "width": SIZE[0],
        "height": SIZE[1],
    }
    generator = torch.Generator().manual_seed(3)
    latents = theirs(pictures, generator=generator, output_type="latent", **common).images
    with torch.inference_mode():
        decoded = theirs.vae.decode(latents / theirs.vae.config.scaling_factor).sample
    expected = (decoded / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).numpy()
    result = pipe.variation(pictures, seed=3, sampler=sampler, output_type="np", **common)
    assert parity_of(result.latents, latents.numpy()).relative_error <= LATENT_TOLERANCE
    error = np.mean((np.stack(result.images).astype(np.float64) - expected) ** 2)
    assert -10 * np.log10(error + 1e-12) >= PICTURE_PSNR
