"""Pictures equal to diffusers' for the same seed, over the grid of samplers, workflows and schedules."""

from itertools import product
from pathlib import Path

import numpy as np
import pytest
from parity.reference import SCHEDULERS, DiffusersReference
from PIL import Image

import latentrt
from latentrt.engines.bundle.checks.parity import parity_of
from latentrt.models import EMOJI
from latentrt.runtime.sampling.samplers import Sampler

STEPS = 5
# The others differ from these in schedule and solver only, which the tiny model shows as well
COMMON = ("ddim", "euler", "euler_a", "dpmpp_2m_k", "heun", "unipc")
SPACINGS = ("linspace", "leading", "trailing")
PREDICTIONS = ("epsilon", "v_prediction")
STRENGTHS = (None, 0.3, 0.5, 1.0)  # None: text-to-image
GUIDANCES = ((1.0, None), (7.5, None), (7.5, "blurry, red"))
# fp32 in another order of operations, over a handful of steps: 1e-6 to 1e-4 is what that leaves
LATENT_TOLERANCE = 1e-3
PICTURE_PSNR = 50.0


@pytest.fixture(scope="module")
def tiny_reference(tiny_checkpoint: Path) -> DiffusersReference:
    """Diffusers on the tiny checkpoint."""
    return DiffusersReference(tiny_checkpoint)


@pytest.fixture(scope="module")
def emoji_reference() -> DiffusersReference:
    """Diffusers on the embedded model."""
    return DiffusersReference(EMOJI)


def picture(size: int) -> Image.Image:
    """A smooth picture with an edge, of one size in pixels."""
    ramp = np.linspace(0, 255, size, dtype=np.uint8)
    pixels = np.stack(np.broadcast_arrays(ramp, ramp[:, None], 255 - ramp), axis=-1).copy()
    pixels[size // 4 : size // 2, size // 4 : size // 2] = (250, 200, 30)
    return Image.fromarray(pixels)


def check(
    pipe: latentrt.Pipeline,
    reference: DiffusersReference,
    *,
    sampler: str,
    spacing: str,
    prediction: str,
    strength: float | None,
    guidance: float,
    negative: str | None,
    prompt: str | list[str] = "a red apple",
    seed: int | list[int] = 7,
    size: tuple[int, int] | None = None,
    steps: int = STEPS,
) -> None:
    """Draws on both sides and compares latents and pictures."""
    first = pipe.manifest.profiles[0]
    size = size or (first.width, first.height)
    wishes = Sampler(name=sampler, timestep_spacing=spacing, prediction_type=prediction)
    image = None if strength is None else picture(size[0])
    expected = reference.draw(
        prompt=prompt,
        negative_prompt=negative if negative is None or isinstance(prompt, str) else [negative] * len(prompt),
        sampler=sampler,
        changes={"timestep_spacing": spacing, "prediction_type": prediction},
        steps=steps,
        guidance_scale=guidance,
        seeds=seed,
        size=size,
        image=image,
        strength=strength,
    )
    common = {
        "negative_prompt": negative,
        "num_inference_steps": steps,
        "guidance_scale": guidance,
        "sampler": wishes,
        "seed": seed,
        "output_type": "np",
    }
    if image is None:
        result = pipe(prompt, **common, width=size[0], height=size[1])
    else:
        result = pipe.img2img(prompt, image=image, strength=strength, **common)
    latents = parity_of(result.latents, expected.latents)
    assert latents.relative_error <= LATENT_TOLERANCE, f"latents: {latents}"
    ours = np.stack([np.asarray(image) for image in result.images])
    mse = float(np.mean((ours.astype(np.float64) - expected.pixels) ** 2))
    assert mse <= 10 ** (-PICTURE_PSNR / 10), f"picture: {-10 * np.log10(mse):.1f} dB"


@pytest.mark.parametrize("sampler", SCHEDULERS)
@pytest.mark.grid(most=2)
def test_tiny_model_with_every_sampler(
    tiny_pipe: latentrt.Pipeline, tiny_reference: DiffusersReference, sampler: str
) -> None:
    """Every strength × guidance, spacings and predictions taking turns so that each meets each of them."""
    for index, (strength, (guidance, negative)) in enumerate(product(STRENGTHS, GUIDANCES)):
        check(
            tiny_pipe,
            tiny_reference,
            sampler=sampler,
            spacing=SPACINGS[(index + index // 3) % 3],
            prediction=PREDICTIONS[index % 2],
            strength=strength,
            guidance=guidance,
            negative=negative,
            size=(32, 32),
        )


@pytest.mark.parametrize("sampler", COMMON)
@pytest.mark.grid(most=1)
def test_embedded_model(emoji_pipe: latentrt.Pipeline, emoji_reference: DiffusersReference, sampler: str) -> None:
    """Every strength and guidance, the spacings and predictions taking turns."""
    for index, (strength, (guidance, negative)) in enumerate(product(STRENGTHS, GUIDANCES)):
        check(
            emoji_pipe,
            emoji_reference,
            sampler=sampler,
            spacing=SPACINGS[(index + index // 3) % 3],
            prediction=PREDICTIONS[index % 2],
            strength=strength,
            guidance=guidance,
            negative=negative,
            prompt="strawberry",
        )


@pytest.mark.parametrize("sampler", SCHEDULERS)
@pytest.mark.grid(most=1)
def test_embedded_model_over_twenty_steps(
    emoji_pipe: latentrt.Pipeline, emoji_reference: DiffusersReference, sampler: str
) -> None:
    """A whole picture as a user draws it, so that errors of many steps would add up."""
    check(
        emoji_pipe,
        emoji_reference,
        sampler=sampler,
        spacing="leading",
        prediction="epsilon",
        strength=None,
        guidance=7.5,
        negative=None,
        prompt="crying face",
        steps=20,
    )


@pytest.mark.parametrize("sampler", ["euler", "euler_a"])
@pytest.mark.parametrize("strength", [None, 0.5])
@pytest.mark.parametrize("seed", [11, [3, 1, 2]])
@pytest.mark.grid
def test_several_prompts_beyond_the_batch(
    tiny_pipe: latentrt.Pipeline,
    tiny_reference: DiffusersReference,
    sampler: str,
    strength: float | None,
    seed: int | list[int],
) -> None:
    """Three pictures on an engine for two, from one generator or one each."""
    check(
        tiny_pipe,
        tiny_reference,
        sampler=sampler,
        spacing="leading",
        prediction="epsilon",
        strength=strength,
        guidance=7.5,
        negative="blurry",
        prompt=["a cat", "", "two words"],
        seed=seed,
    )


def test_a_size_that_is_not_square(tiny_pipe: latentrt.Pipeline, tiny_reference: DiffusersReference) -> None:
    """Width and height are not mixed up."""
    check(
        tiny_pipe,
        tiny_reference,
        sampler="dpmpp_2m",
        spacing="leading",
        prediction="epsilon",
        strength=None,
        guidance=7.5,
        negative=None,
        size=(48, 32),
    )


def test_strength_zero_only_passes_through_the_autoencoder(
    tiny_pipe: latentrt.Pipeline, tiny_reference: DiffusersReference
) -> None:
    """No U-Net call; the latents are the posterior's sample."""
    import torch

    image = picture(32)
    result = tiny_pipe.img2img("x", image=image, strength=0.0, seed=5, output_type="latent")
    assert result.timings.unet_calls == 0
    pixels = tiny_reference.image.image_processor.preprocess(image)
    with torch.inference_mode():
        posterior = tiny_reference.image.vae.encode(pixels).latent_dist
        latents = posterior.sample(torch.Generator().manual_seed(5)) * tiny_reference.image.vae.config.scaling_factor
    assert parity_of(result.latents, latents.numpy()).relative_error <= LATENT_TOLERANCE
