"""Regions against a loop in torch over diffusers' modules: Σ maskᵢ · guidedᵢ in every step, and in its pipelines."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from parity.reference import DiffusersReference, scheduler_for
from PIL import Image, ImageDraw
from torch.nn.functional import avg_pool2d

import latentrt
from latentrt import Region
from latentrt.engines.bundle.checks.parity import parity_of
from latentrt.models import EMOJI

LATENT_TOLERANCE = 1e-4
PICTURE_PSNR = 50.0
STEPS = 5


def ellipse(size: tuple[int, int]) -> Image.Image:
    """A grey mask off centre."""
    found = Image.new("L", size)
    ImageDraw.Draw(found).ellipse((size[0] // 3, 3, size[0] - 2, size[1] - 5), fill=200)
    return found


def pixels_of_box(box: Sequence[int], size: tuple[int, int]) -> torch.Tensor:
    """(H, W): 1 in a box in pixels."""
    left, top, right, bottom = box
    mask = torch.zeros(size[1], size[0], dtype=torch.float64)
    mask[top:bottom, left:right] = 1.0
    return mask


def shares(masks: Sequence[torch.Tensor], weights: Sequence[float], factor: int) -> torch.Tensor:
    """(1 + R, 1, h, w) of masks (H, W): the rest of the first prompt, and of overlapping regions each its part."""
    small = torch.stack([w * avg_pool2d(mask[None], factor) for mask, w in zip(masks, weights, strict=True)])
    total = small.sum(0, keepdim=True)
    return torch.cat([(1 - total).clamp(min=0), small / total.clamp(min=1)]).float()


class Told:
    """Prompts as a U-Net of diffusers is told them: the negative first."""

    def __init__(self, theirs: DiffusersReference, prompts: Sequence[str], size: tuple[int, int]) -> None:
        self.added: list[dict[str, Any]] = []
        xl = "XL" in type(theirs.text).__name__
        self.states = []
        with torch.inference_mode():
            for prompt in ("blurry", *prompts):
                encoded = theirs.text.encode_prompt(
                    prompt, device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=False
                )
                self.states.append(encoded[0])
                ids = torch.tensor([[size[1], size[0], 0, 0, size[1], size[0]]], dtype=torch.float32)
                self.added.append({"text_embeds": encoded[2], "time_ids": ids} if xl else {})


def drawn_in_a_loop(
    theirs: DiffusersReference, prompts: Sequence[str], parts: torch.Tensor, guidance: float, size: tuple[int, int]
) -> np.ndarray[Any, Any]:
    """Latents of one picture: in each step the guided prediction of every prompt, and of these Σ maskᵢ · guidedᵢ.

    What the masks lack to 1, as they do where prompts are composed with weights, is the negative prediction.
    """
    told, unet = Told(theirs, prompts, size), theirs.text.unet
    scheduler = scheduler_for("euler", theirs.config)
    scheduler.set_timesteps(STEPS)
    shape = (1, unet.config.in_channels, *parts.shape[-2:])
    x = torch.randn(shape, generator=torch.Generator().manual_seed(3)) * scheduler.init_noise_sigma
    for timestep in scheduler.timesteps:
        scaled = scheduler.scale_model_input(x, timestep)
        with torch.inference_mode():
            against, *each = [
                unet(scaled, timestep, states, added_cond_kwargs=added).sample
                for states, added in zip(told.states, told.added, strict=True)
            ]
        guided = [against + guidance * (one - against) for one in each]
        mixed = sum(part * one for part, one in zip(parts, guided, strict=True)) + (1 - parts.sum(0)) * against
        x = scheduler.step(mixed, timestep, x).prev_sample
    return np.asarray(x)


@pytest.fixture(scope="module")
def reference(family_checkpoint: Callable[[str], Path]) -> Callable[[str], DiffusersReference]:
    """Diffusers on a checkpoint."""
    made: dict[str, DiffusersReference] = {}

    def of(family: str) -> DiffusersReference:
        if family not in made:
            made[family] = DiffusersReference(EMOJI if family == "emoji" else family_checkpoint(family))
        return made[family]

    return of


@pytest.fixture
def pipe_of(family_pipe: Callable[[str], latentrt.Pipeline], request: pytest.FixtureRequest) -> Any:
    """Our pipeline of it."""
    return lambda family: request.getfixturevalue("emoji_pipe") if family == "emoji" else family_pipe(family)


@pytest.mark.parametrize(
    ("family", "guidance"),
    [
        ("sd1", 4.0),
        pytest.param("sdxl", 4.0, marks=pytest.mark.slow),
        pytest.param("emoji", 1.0, marks=pytest.mark.slow),
        pytest.param("emoji", 4.0, marks=pytest.mark.slow),
        pytest.param("sdxl", 1.0, marks=pytest.mark.slow),
    ],
)
def test_the_published_formula(
    family: str, guidance: float, pipe_of: Any, reference: Callable[[str], DiffusersReference]
) -> None:
    """Two regions over each other and a grey mask, with a rest for the prompt of the call; guidance and none."""
    pipe, theirs = pipe_of(family), reference(family)
    profile = pipe.manifest.profiles[0]
    size, factor = (profile.width, profile.height), pipe.manifest.latents.width_factor
    box = [0, 4, size[0] // 2 + 2, size[1]]
    wide = [size[0] // 4, 0, size[0], size[1] // 2 - 3]
    grey = ellipse(size)
    masks = [pixels_of_box(box, size), torch.from_numpy(np.asarray(grey) / 255.0), pixels_of_box(wide, size)]
    weights = (1.0, 0.8, 2.5)
    prompts = ["a red apple", "cat face", "dog face", "pizza"]
    expected = drawn_in_a_loop(theirs, prompts, shares(masks, weights, factor), guidance, size)

    def as_shares(box: Sequence[int]) -> tuple[float, ...]:
        return tuple(value / size[index % 2] for index, value in enumerate(box))

    ours = pipe(
        prompts[0],
        negative_prompt=None if guidance == 1.0 else "blurry",
        regions=[
            Region(prompts[1], box=as_shares(box)),
            Region(prompts[2], mask=grey, weight=weights[1]),
            Region(prompts[3], box=as_shares(wide), weight=weights[2]),
        ],
        guidance_scale=guidance,
        sampler="euler",
        num_inference_steps=STEPS,
        seed=3,
        output_type="np",
    )
    parity = parity_of(ours.latents, expected)
    assert parity.relative_error <= LATENT_TOLERANCE, str(parity)
    pixels = theirs.decoded(torch.from_numpy(expected))
    assert -10 * np.log10(np.mean((np.stack(ours.images) - pixels) ** 2) + 1e-12) >= PICTURE_PSNR
    plain = pipe(prompts[0], guidance_scale=guidance, sampler="euler", num_inference_steps=STEPS, seed=3)
    assert parity_of(plain.latents, expected).relative_error > 100 * LATENT_TOLERANCE  # so that it compares something


def test_composed_prompts(pipe_of: Any, reference: Callable[[str], DiffusersReference]) -> None:
    """``AND`` in the prompt of the call and in a region: its weights times the mask."""
    pipe, theirs, size = pipe_of("sd1"), reference("sd1"), (32, 32)
    own, left = shares([pixels_of_box((0, 0, 16, 24), size)], (0.9,), theirs.text.vae_scale_factor)
    prompts, parts = ["a red apple", "pizza", "a cat", "a dog"], torch.stack([own, 0.4 * own, left, -0.3 * left])
    expected = drawn_in_a_loop(theirs, prompts, parts, 4.0, size)
    ours = pipe(
        "a red apple AND pizza :0.4",
        negative_prompt="blurry",
        prompt_syntax="a1111",
        regions=Region("a cat AND a dog :-0.3", box=(0, 0, 0.5, 0.75), weight=0.9),
        guidance_scale=4.0,
        sampler="euler",
        num_inference_steps=STEPS,
        seed=3,
        output_type="latent",
    )
    parity = parity_of(ours.latents, expected)
    assert parity.relative_error <= LATENT_TOLERANCE, str(parity)


@contextmanager
def regional(theirs: DiffusersReference, prompts: Sequence[str], parts: torch.Tensor) -> Iterator[None]:
    """While it lasts, diffusers' pipelines draw with regions: their U-Net says Σ maskᵢ · cᵢ of the prompted half."""
    told, unet = Told(theirs, prompts, (32, 32)), theirs.text.unet
    forward = unet.forward

    def mixed(sample: Any, timestep: Any, encoder_hidden_states: Any, **more: Any) -> Any:
        first = forward(sample, timestep, encoder_hidden_states, **{**more, "return_dict": False})[0]
        against, base = first.chunk(2)
        half = sample.chunk(2)[1]
        each = [forward(half, timestep, s.expand(len(half), -1, -1), return_dict=False)[0] for s in told.states[1:]]
        regions = sum(part * one for part, one in zip(parts, [base, *each], strict=True))
        return (torch.cat([against, regions]),)

    unet.forward = mixed
    try:
        yield
    finally:
        unet.forward = forward


@pytest.mark.parametrize(
    ("workflow", "family", "sampler"),
    [
        pytest.param("text", "sd1", "dpmpp_2m_sde", marks=pytest.mark.slow),
        ("inpaint", "sd1", "euler_a"),
        pytest.param("img2img", "sd1", "heun", marks=pytest.mark.slow),
        pytest.param("inpaint", "sd1-inpaint", "dpmpp_2m", marks=pytest.mark.slow),
    ],
)
def test_workflows(
    workflow: str, family: str, sampler: str, pipe_of: Any, reference: Callable[[str], DiffusersReference]
) -> None:
    """Three pictures on an engine for two, from text, from a picture and under a mask, in diffusers' own pipelines."""
    pipe, theirs, size = pipe_of(family), reference(family), (32, 32)
    ramp = np.linspace(0, 255, 32, dtype=np.uint8)
    image = Image.fromarray(np.stack(np.broadcast_arrays(ramp, ramp[:, None], 255 - ramp), axis=-1).copy())
    masked = Image.fromarray(np.where(np.arange(32) < 20, np.uint8(255), np.uint8(0))[None].repeat(32, 0))
    more: dict[str, Any] = {
        "text": {},
        "img2img": {"image": image, "strength": 0.7},
        "inpaint": {"image": image, "mask_image": masked, "strength": 0.8},
    }[workflow]
    common = {"guidance_scale": 5.0, "sampler": sampler, **more}
    factor = theirs.text.vae_scale_factor
    parts = shares(
        [pixels_of_box((0, 0, 16, 24), size), torch.from_numpy(np.asarray(ellipse(size)) / 255.0)], (1, 1), factor
    )
    pictures = ["a red apple", "a cat", "a dog"]
    with regional(theirs, ["pizza", "frog"], parts):
        expected = theirs.draw(prompt=pictures, seeds=4, size=size, steps=STEPS, **common)
    draw = {"text": pipe, "img2img": pipe.img2img, "inpaint": pipe.inpaint}[workflow]
    ours = draw(
        pictures,
        regions=[Region("pizza", box=(0, 0, 0.5, 0.75)), Region("frog", mask=ellipse(size))],
        seed=4,
        num_inference_steps=STEPS,
        output_type="latent",
        **common,
    )
    parity = parity_of(ours.latents, expected.latents)
    assert parity.relative_error <= LATENT_TOLERANCE, str(parity)
