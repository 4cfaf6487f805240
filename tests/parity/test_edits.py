"""Edits of pictures, against diffusers' StableDiffusionInstructPix2PixPipeline over the same tiny random weights."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from parity.reference import Reference, scheduler_for
from PIL import Image

import latentrt
from latentrt.engines.bundle.checks.parity import parity_of

LATENT_TOLERANCE = 1e-3
PICTURE_PSNR = 50.0
STEPS = 4
SIZE = (32, 32)
EDIT = "instruct-pix2pix"


def pictures() -> dict[str, Image.Image]:
    """A smooth one with an edge, noise, and one almost black."""
    width, height = SIZE
    ramp = np.linspace(0, 255, width, dtype=np.uint8)
    smooth = np.stack(np.broadcast_arrays(ramp, ramp[:, None], 255 - ramp), axis=-1).copy()
    smooth[8:16, 8:16] = (250, 200, 30)
    noise = np.random.default_rng(3).integers(0, 256, (height, width, 3), np.uint8)
    return {name: Image.fromarray(one) for name, one in {"smooth": smooth, "noise": noise, "dark": noise // 32}.items()}


PICTURES = pictures()


class Pix2Pix:
    """Diffusers on the checkpoint."""

    def __init__(self, checkpoint: Path) -> None:
        import diffusers

        self.pipeline: Any = diffusers.StableDiffusionInstructPix2PixPipeline.from_pretrained(
            checkpoint, torch_dtype=torch.float32, requires_safety_checker=False
        )
        self.pipeline.set_progress_bar_config(disable=True)
        self.config = dict(self.pipeline.scheduler.config)

    def draw(self, prompt: str | list[str], *, sampler: str, seed: int | list[int], **options: Any) -> Reference:
        """What it draws with these options of its own."""
        self.pipeline.scheduler = scheduler_for(sampler, self.config)
        generators = [torch.Generator().manual_seed(one) for one in (seed if isinstance(seed, list) else [seed])]
        latents = self.pipeline(
            prompt,
            generator=generators if isinstance(seed, list) else generators[0],
            num_inference_steps=STEPS,
            output_type="latent",
            **options,
        ).images
        with torch.inference_mode():
            decoded = self.pipeline.vae.decode(latents / self.pipeline.vae.config.scaling_factor, return_dict=False)[0]
        pixels = self.pipeline.image_processor.postprocess(decoded, output_type="np")
        return Reference(latents=latents.numpy(), pixels=np.asarray(pixels))


@pytest.fixture(scope="module")
def theirs(picture_checkpoint: Callable[[str], Path]) -> Pix2Pix:
    """Diffusers on the tiny checkpoint."""
    return Pix2Pix(picture_checkpoint(EDIT))


@pytest.fixture(scope="module")
def ours(picture_pipe: Callable[[str], latentrt.Pipeline]) -> latentrt.Pipeline:
    """Its bundle."""
    return picture_pipe(EDIT)


def compare(
    ours: latentrt.Pipeline,
    theirs: Pix2Pix,
    prompt: str | list[str] = "make it snow",
    *,
    sampler: str = "euler_a",
    seed: int | list[int] = 7,
    image: Any = None,
    **options: Any,
) -> latentrt.Result:
    """Both with the same arguments; ours comes back."""
    image = PICTURES["smooth"] if image is None else image
    expected = theirs.draw(prompt, sampler=sampler, seed=seed, image=image, **options)
    drawn = ours.edit(
        prompt, image=image, sampler=sampler, seed=seed, num_inference_steps=STEPS, output_type="np", **options
    )
    parity = parity_of(drawn.latents, expected.latents)
    assert parity.relative_error <= LATENT_TOLERANCE, str(parity)
    error = np.mean((np.stack(drawn.images).astype(np.float64) - expected.pixels) ** 2)
    assert -10 * np.log10(error + 1e-12) >= PICTURE_PSNR
    return drawn


@pytest.mark.parametrize("picture", PICTURES)
@pytest.mark.parametrize("scales", [(7.5, 1.5), (7.5, 1.0), (3.0, 2.5), (1.0, 1.5), (0.5, 1.0)])
@pytest.mark.grid(most=5)
def test_scales(ours: latentrt.Pipeline, theirs: Pix2Pix, picture: str, scales: tuple[float, float]) -> None:
    """Both weights, also those that leave passes out: a step has three, two, or one."""
    guidance, towards = scales
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a weight that changes nothing
        compare(ours, theirs, image=PICTURES[picture], guidance_scale=guidance, image_guidance_scale=towards)


def test_no_weight_of_the_picture(ours: latentrt.Pipeline, theirs: Pix2Pix) -> None:
    """Below 1 nothing guides, as in diffusers; a warning says so."""
    with pytest.warns(UserWarning, match="image_guidance_scale 0.8, below 1, where nothing guides"):
        compare(ours, theirs, guidance_scale=7.5, image_guidance_scale=0.8)
    with pytest.warns(UserWarning, match="image_guidance_scale without guidance"):
        compare(ours, theirs, guidance_scale=1.0, image_guidance_scale=1.5)


@pytest.mark.parametrize(
    "sampler", ["ddim", "euler", "dpmpp_2m_k", "heun", "dpmpp_2m_sde", "pndm", "unipc", "lms", "ddpm"]
)
@pytest.mark.parametrize("picture", PICTURES)
@pytest.mark.grid(most=3)
def test_samplers(ours: latentrt.Pipeline, theirs: Pix2Pix, sampler: str, picture: str) -> None:
    """Draws in the order of theirs: the picture's posterior draws nothing."""
    compare(ours, theirs, sampler=sampler, image=PICTURES[picture], guidance_scale=5.0, image_guidance_scale=1.3)


BATCHES: dict[str, dict[str, Any]] = {
    "prompts": {"prompt": ["make it snow", "a red apple", "at night"]},
    "pictures": {"prompt": ["make it snow", "a red apple"], "image": [PICTURES["smooth"], PICTURES["noise"]]},
    "seeds": {"prompt": ["make it snow", "a red apple"], "seed": [5, 9]},
    "repeats": {"num_images_per_prompt": 3},
    "negatives": {"prompt": ["make it snow", "at night"], "negative_prompt": ["summer", "a cat"]},
}


@pytest.mark.parametrize(
    "batch",
    [pytest.param(name, marks=() if name in ("pictures", "negatives") else pytest.mark.slow) for name in BATCHES],
)
def test_batches(ours: latentrt.Pipeline, theirs: Pix2Pix, batch: str) -> None:
    """Several prompts, pictures, seeds and negative prompts, on an engine for two pictures."""
    compare(ours, theirs, **BATCHES[batch])
