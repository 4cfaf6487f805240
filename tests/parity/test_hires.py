"""A hires fix is diffusers' text-to-image, torch's interpolation, and the last steps of its image-to-image."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from parity.reference import DiffusersReference

import latentrt
from latentrt.engines.bundle.checks.parity import parity_of
from latentrt.engines.shapes import profile_from_text
from latentrt.models import EMOJI

# fp32 in another order of operations, over a handful of steps: 1e-6 to 1e-4 is what that leaves
LATENT_TOLERANCE = 1e-3
PICTURE_PSNR = 50.0
STEPS, SECOND, STRENGTH = 4, 3, 0.55


@pytest.fixture(scope="module")
def reference() -> DiffusersReference:
    """Diffusers on the embedded model."""
    return DiffusersReference(EMOJI)


@pytest.fixture(scope="module")
def pipe(emoji_bundle: Path) -> Iterator[latentrt.Pipeline]:
    """The embedded model as if it was built for a larger size, too: engines for the CPU take every one."""
    with latentrt.open(emoji_bundle, threads=1) as pipe:
        sizes = tuple(map(profile_from_text, ("64x64", "96x96")))
        object.__setattr__(pipe._bundle, "manifest", pipe.manifest.model_copy(update={"profiles": sizes}))
        yield pipe


@pytest.mark.parametrize("upscaler", ["latent", "latent-nearest-exact", "lanczos"])
@pytest.mark.parametrize("sampler", ["dpmpp_2m_k", "euler_a", "ddim", "heun", "dpmpp_2s", "unipc", "lms_k"])
@pytest.mark.grid(most=1)
def test_both_passes(pipe: latentrt.Pipeline, reference: DiffusersReference, sampler: str, upscaler: str) -> None:
    """Its scheduler is given int(steps / strength) steps, of which the last are taken."""
    call = {"num_inference_steps": STEPS, "guidance_scale": 3.0, "seed": 7, "sampler": sampler, "output_type": "np"}
    hires = latentrt.Hires(scale=1.5, steps=SECOND, strength=STRENGTH, upscaler=upscaler)
    ours = pipe("a red apple", **call, hires=hires)  # type: ignore[arg-type]

    def drawn(steps: int, **more: object) -> torch.Tensor:
        theirs = reference.draw(
            prompt="a red apple", sampler=sampler, seeds=7, size=(64, 64), steps=steps, guidance_scale=3.0, **more
        )
        return torch.from_numpy(theirs.latents)

    small = drawn(STEPS)
    if upscaler == "lanczos":
        pixels = reference.decoded(small)
        image = reference.image.image_processor.numpy_to_pil(pixels)[0].resize((96, 96), 1)
    else:
        mode = "bilinear" if upscaler == "latent" else "nearest-exact"
        image = torch.nn.functional.interpolate(small, size=(24, 24), mode=mode)
    total = int(SECOND / STRENGTH)
    large = drawn(total, image=image, strength=(SECOND + 0.5) / total)
    parity = parity_of(ours.latents, large.numpy())
    assert parity.relative_error <= LATENT_TOLERANCE, str(parity)
    difference = np.stack(ours.images).astype(np.float64) - reference.decoded(large)
    assert -10 * np.log10(np.mean(difference**2) + 1e-12) >= PICTURE_PSNR
