"""Pictures with APG equal diffusers' guider; with CFG++ and dynamic thresholding, loops written after their formulas.

Diffusers' own pipelines draw the reference. Its U-Net is made to answer for both halves of a batch with what another
guidance makes of them, which the pipeline's guidance then leaves as it is.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from parity.reference import DiffusersReference, scheduler_for
from PIL import Image

import latentrt
from latentrt.engines.bundle.checks.parity import parity_of
from latentrt.models import EMOJI

PICTURE_PSNR = 50.0
LATENT_TOLERANCE = 1e-4  # fp32 in another order of operations
EFFECT = 10 * LATENT_TOLERANCE  # guidance that changes less would prove nothing
STEPS = 5
SCALE = 9.0
Combine = Callable[..., torch.Tensor]


def psnr(one: Any, other: Any) -> float:
    """Of pictures in [0, 1], in decibels."""
    return float(-10.0 * np.log10(np.mean((np.asarray(one) - np.asarray(other)) ** 2) + 1e-30))


@pytest.fixture(scope="module")
def sides(
    request: pytest.FixtureRequest, family_pipe: Callable[[str], Any], family_checkpoint: Callable[[str], Path]
) -> Callable[[str], tuple[latentrt.Pipeline, DiffusersReference]]:
    """A pipeline, and diffusers' pipelines of the same checkpoint."""

    @cache
    def both(name: str) -> tuple[latentrt.Pipeline, DiffusersReference]:
        if name == "emoji":
            return request.getfixturevalue("emoji_pipe"), DiffusersReference(EMOJI)
        return family_pipe(name), DiffusersReference(family_checkpoint(name))

    return both


@contextmanager
def guided_by(pipeline: Any, combine: Combine) -> Iterator[None]:
    """Lets ``combine(cond, uncond, x, timestep)`` guide a pipeline of diffusers."""
    unet, forward = pipeline.unet, pipeline.unet.forward

    def answered(x: torch.Tensor, timestep: Any, *args: Any, **keywords: Any) -> tuple[torch.Tensor]:
        uncond, cond = forward(x, timestep, *args, **keywords)[0].chunk(2)
        return (torch.cat([combine(cond, uncond, x.chunk(2)[0], timestep)] * 2),)

    unet.forward = answered
    try:
        yield
    finally:
        unet.forward = forward


def guider(**settings: Any) -> Combine:
    """Diffusers' adaptive projected guidance, whose running average begins with the first call."""
    from diffusers.guiders.adaptive_projected_guidance import AdaptiveProjectedGuidance, MomentumBuffer

    made = AdaptiveProjectedGuidance(guidance_scale=SCALE, **settings)
    momentum = settings.get("adaptive_projected_guidance_momentum")
    made.momentum_buffer = None if momentum is None else MomentumBuffer(momentum)
    return lambda cond, uncond, x, timestep: made.forward(cond, uncond).pred


def compare(
    both: tuple[latentrt.Pipeline, DiffusersReference],
    sampler: str,
    combine: Combine,
    ours: dict[str, Any],
    **common: Any,
) -> None:
    """Draws on both sides with guidance of one's own, which is not the plain one."""
    pipe, theirs = both
    size = (pipe.manifest.profiles[0].width, pipe.manifest.profiles[0].height)
    told: dict[str, Any] = {"prompt": "a red apple", "negative_prompt": "blurry", **common}
    pipeline = theirs.text if "image" not in told else theirs.image if "mask_image" not in told else theirs.inpaint
    count = 1 if isinstance(told["prompt"], str) else len(told["prompt"])
    with guided_by(pipeline, combine):
        expected = theirs.draw(
            **{**told, "negative_prompt": ["blurry"] * count if count > 1 else "blurry"},
            sampler=sampler,
            seeds=7,
            size=size,
            steps=STEPS,
            guidance_scale=SCALE,
        )
    draw = pipe if "image" not in told else pipe.img2img if "mask_image" not in told else pipe.inpaint
    more = {"kept_pixels": "decoded"} if "mask_image" in told else {}
    given = {"seed": 7, "num_inference_steps": STEPS, "sampler": sampler, "output_type": "np", **told, **more}
    drawn = draw(**given, **{"guidance_scale": SCALE, **ours})
    plain = draw(**given, guidance_scale=SCALE)
    assert psnr(drawn.images, expected.pixels) >= PICTURE_PSNR
    assert parity_of(drawn.latents, expected.latents).relative_error <= LATENT_TOLERANCE
    assert parity_of(drawn.latents, plain.latents).relative_error >= EFFECT


APG = {"eta": 0.2, "norm_threshold": 2.0, "momentum": -0.5}
GUIDER = {
    "eta": 0.2,
    "adaptive_projected_guidance_rescale": 2.0,
    "adaptive_projected_guidance_momentum": -0.5,
}


@pytest.mark.parametrize(
    ("family", "sampler"),
    [
        ("sd1", "euler"),
        pytest.param("sd1", "heun", marks=pytest.mark.slow),
        pytest.param("sd1", "dpmpp_2m_k", marks=pytest.mark.slow),
        pytest.param("sd2", "ddim", marks=pytest.mark.slow),
        pytest.param("sdxl", "euler", marks=pytest.mark.slow),
        pytest.param("emoji", "dpmpp_2m", marks=pytest.mark.slow),
    ],
)
def test_apg(sides: Callable[[str], Any], family: str, sampler: str) -> None:
    """Two pictures, each with an average of its own."""
    both = sides(family)
    prompts = ["a red apple", "a cat"]
    compare(both, sampler, guider(**GUIDER), {"apg": latentrt.Apg(**APG)}, prompt=prompts)


@pytest.mark.slow
def test_apg_that_is_rescaled(sides: Callable[[str], Any]) -> None:
    """Diffusers' guider rescales what it projected, towards the prompt's own prediction."""
    ours = {"apg": APG, "guidance_rescale": 0.6}
    compare(sides("sd1"), "euler", guider(**GUIDER, guidance_rescale=0.6), ours)


@pytest.mark.slow
@pytest.mark.parametrize("masked", [False, True])
def test_apg_from_pictures(sides: Callable[[str], Any], masked: bool) -> None:
    """Image-to-image and inpainting."""
    both = sides("sd1")
    size = (both[0].manifest.profiles[0].width, both[0].manifest.profiles[0].height)
    image = Image.linear_gradient("L").resize(size).convert("RGB")
    given = {"image": image, "strength": 0.7}
    if masked:
        given["mask_image"] = Image.linear_gradient("L").rotate(90).resize(size).point(lambda v: 255 * (v > 128))
    compare(both, "euler", guider(**GUIDER), {"apg": latentrt.Apg(**APG)}, **given)


WEIGHT = 0.7


def renoised(
    both: tuple[latentrt.Pipeline, DiffusersReference], sampler: str, step: Callable[..., torch.Tensor]
) -> None:
    """Compares CFG++ with diffusers' pipeline whose scheduler takes other steps.

    ``step(scheduler, t, x, guided, unguided)`` is given the timestep's index and both predictions of ε.
    """
    pipe, theirs = both
    size = (pipe.manifest.profiles[0].width, pipe.manifest.profiles[0].height)
    scheduler = scheduler_for(sampler, theirs.config)
    unguided: list[torch.Tensor] = []

    def combine(cond: torch.Tensor, uncond: torch.Tensor, x: torch.Tensor, timestep: Any) -> torch.Tensor:
        unguided.append(uncond)
        return uncond + WEIGHT * (cond - uncond)

    class Stepped(type(scheduler)):  # type: ignore[misc]
        def step(
            self, output: torch.Tensor, timestep: Any, sample: Any, return_dict: bool, generator: Any = None
        ) -> Any:
            index = len(unguided) - 1
            self._step_index = index + 1  # by which it scales the next input
            return (step(self, index, sample, output, unguided[-1], generator),)

    scheduler.__class__ = Stepped
    pipeline = theirs.text
    pipeline.scheduler = scheduler
    with guided_by(pipeline, combine):
        latents = pipeline(
            "a red apple",
            negative_prompt="blurry",
            generator=torch.Generator().manual_seed(7),
            num_inference_steps=STEPS,
            guidance_scale=SCALE,
            width=size[0],
            height=size[1],
            output_type="latent",
        ).images
    common = {"negative_prompt": "blurry", "seed": 7, "sampler": sampler, "num_inference_steps": STEPS}
    drawn = pipe("a red apple", cfg_plus_plus=WEIGHT, output_type="np", **common)
    plain = pipe("a red apple", guidance_scale=12.5 * WEIGHT, output_type="latent", **common)
    assert psnr(drawn.images, theirs.decoded(latents)) >= PICTURE_PSNR
    assert parity_of(drawn.latents, latents.numpy()).relative_error <= LATENT_TOLERANCE
    assert parity_of(drawn.latents, plain.latents).relative_error >= EFFECT


def ddim_step(scheduler: Any, index: int, x: Any, guided: Any, unguided: Any, generator: Any) -> Any:
    """The paper's algorithm 2: Tweedie's formula with the guided ε, then the unguided one."""
    timestep = int(scheduler.timesteps[index])
    before = timestep - scheduler.config.num_train_timesteps // STEPS
    bar = scheduler.alphas_cumprod[timestep]
    next_bar = scheduler.alphas_cumprod[before] if before >= 0 else scheduler.final_alpha_cumprod
    clean = (x - (1.0 - bar).sqrt() * guided) / bar.sqrt()
    return next_bar.sqrt() * clean + (1.0 - next_bar).sqrt() * unguided


def euler_step(scheduler: Any, index: int, x: Any, guided: Any, unguided: Any, generator: Any, eta: float = 0.0) -> Any:
    """k-diffusion's Euler and Euler ancestral, from the guided clean sample along the unguided slope."""
    sigma, target = scheduler.sigmas[index], scheduler.sigmas[index + 1]
    up = eta * (target**2 * (sigma**2 - target**2) / sigma**2).sqrt()
    down = (target**2 - up**2).sqrt()
    clean, unguided_clean = x - sigma * guided, x - sigma * unguided
    stepped = clean + (x - unguided_clean) / sigma * down
    noise = torch.randn(x.shape, generator=generator) if eta else torch.zeros(())
    return stepped + noise * up


def euler_a_step(*arguments: Any) -> Any:
    """With all of the noise that may be fresh."""
    return euler_step(*arguments, eta=1.0)


def dpmpp_2m() -> Callable[..., Any]:
    """ComfyUI's ``dpmpp_2m_cfg_pp``, which works on x = x₀ + σ · ε."""
    before: list[Any] = []

    def step(scheduler: Any, index: int, x: Any, guided: Any, unguided: Any, generator: Any) -> Any:
        sigma, target = scheduler.sigmas[index], scheduler.sigmas[index + 1]
        x = x * (1.0 + sigma**2).sqrt()
        clean, unguided_clean = x - sigma * guided, x - sigma * unguided
        shrunk = target / sigma
        stepped = clean - shrunk * unguided_clean + shrunk * x
        if before and target > 0.0:
            last_sigma, last_clean = before[-1]
            ratio = (last_sigma / sigma).log() / (sigma / target).log()
            stepped = stepped + (1.0 - shrunk) / (2.0 * ratio) * (clean - last_clean)
        before.append((sigma, unguided_clean))
        return stepped / (1.0 + target**2).sqrt()

    return step


CFG_PLUS_PLUS: dict[str, Callable[[], Callable[..., Any]]] = {
    "ddim": lambda: ddim_step,
    "euler": lambda: euler_step,
    "euler_a": lambda: euler_a_step,
    "dpmpp_2m": dpmpp_2m,
    "euler_k": lambda: euler_step,
    "dpmpp_2m_k": dpmpp_2m,
}


@pytest.mark.parametrize(
    ("family", "sampler"),
    [
        ("sd1", "ddim"),
        ("sd1", "dpmpp_2m"),
        *(pytest.param("sd1", name, marks=pytest.mark.slow) for name in ("euler", "euler_a", "euler_k", "dpmpp_2m_k")),
        *(pytest.param("sdxl", name, marks=pytest.mark.slow) for name in ("ddim", "euler_a", "dpmpp_2m")),
        *(pytest.param("emoji", name, marks=pytest.mark.slow) for name in CFG_PLUS_PLUS),
    ],
)
def test_cfg_plus_plus(sides: Callable[[str], Any], family: str, sampler: str) -> None:
    """Every step is the published formula's, with diffusers' U-Net, timesteps and noise."""
    renoised(sides(family), sampler, CFG_PLUS_PLUS[sampler]())


def thresholded_at(scheduler: Any, mimic: float, percentile: float) -> Combine:
    """The extension's default: ranges of channels around their means, of clean samples."""

    def combine(cond: torch.Tensor, uncond: torch.Tensor, x: torch.Tensor, timestep: Any) -> torch.Tensor:
        bar = scheduler.alphas_cumprod[int(timestep)].double()
        cleans = [
            (x.double() - (1.0 - bar).sqrt() * (uncond + scale * (cond - uncond)).double()) / bar.sqrt()
            for scale in (SCALE, mimic)
        ]
        (mean, centred), (_, weaker) = (
            (c.mean((2, 3), keepdim=True), c - c.mean((2, 3), keepdim=True)) for c in cleans
        )
        wanted = weaker.abs().amax((2, 3), keepdim=True)
        own = torch.quantile(centred.abs().flatten(2), percentile, dim=2)[..., None, None]
        limit = torch.maximum(wanted, own)
        kept = centred.clamp(-limit, limit) / limit * wanted + mean
        return ((x - bar.sqrt() * kept) / (1.0 - bar).sqrt()).float()

    return combine


@pytest.mark.parametrize(
    ("family", "percentile"),
    [
        ("sd1", 97.5),
        pytest.param("sd1", 100.0, marks=pytest.mark.slow),
        pytest.param("sdxl", 97.5, marks=pytest.mark.slow),
        pytest.param("emoji", 97.5, marks=pytest.mark.slow),
    ],
)
def test_dynamic_thresholding(sides: Callable[[str], Any], family: str, percentile: float) -> None:
    """Two pictures, each with ranges of its own."""
    both = sides(family)
    settings = latentrt.DynamicThresholding(mimic_scale=1.0, threshold_percentile=percentile)
    reference = thresholded_at(scheduler_for("ddim", both[1].config), 1.0, percentile / 100.0)
    compare(both, "ddim", reference, {"dynamic_thresholding": settings}, prompt=["a red apple", "a cat"])


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("momentum", [0.0, -0.5, 0.9])
@pytest.mark.parametrize("threshold", [0.0, 3.0, 1e6])
def test_projection_is_diffusers(eta: float, momentum: float, threshold: float) -> None:
    """Over several steps, at every setting."""
    from latentrt.engines.bundle.records.schedule_config import PredictionType
    from latentrt.runtime.denoiser.combiners.apg import projected
    from latentrt.runtime.denoiser.guider import Predictions, classifier_free
    from latentrt.runtime.sampling.schedule import Level

    apg = latentrt.Apg(eta=eta, norm_threshold=threshold, momentum=momentum)
    ours = projected(classifier_free, apg, PredictionType.EPSILON)
    theirs = guider(
        eta=eta,
        adaptive_projected_guidance_rescale=threshold,
        adaptive_projected_guidance_momentum=momentum or None,
    )
    random = np.random.default_rng(1)
    for _ in range(3):
        uncond, cond, x = random.normal(size=(3, 2, 4, 6, 5)).astype(np.float32)
        found = ours(
            Predictions(unconditional=uncond, conditional=cond, scale=SCALE, x=x, level=Level(500.0, 0.6, 0.8))
        )
        expected = theirs(torch.from_numpy(cond), torch.from_numpy(uncond), None, None).numpy()
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=2e-5)
