"""Inpainting, hand-over, guidance and the loop's other wishes, against the diffusers pipeline of the same name."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from parity.reference import DiffusersReference, scheduler_for, set_timesteps
from PIL import Image

import latentrt
from latentrt.engines.bundle.checks.parity import parity_of
from latentrt.engines.spec import Array
from latentrt.runtime.sampling.grids.align_your_steps import AYS_SIGMAS, AYS_TIMESTEPS
from latentrt.runtime.sampling.samplers import Sampler

# fp32 in another order of operations, over a handful of steps: 1e-6 to 1e-4 is what that leaves
LATENT_TOLERANCE = 1e-3
PICTURE_PSNR = 50.0
SIZE = (32, 32)


@pytest.fixture(scope="module")
def reference(tiny_checkpoint: Path) -> DiffusersReference:
    """Diffusers on the tiny checkpoint."""
    return DiffusersReference(tiny_checkpoint)


@pytest.fixture(scope="module")
def masked_reference(masked_checkpoint: Path) -> DiffusersReference:
    """Diffusers on it."""
    return DiffusersReference(masked_checkpoint)


@pytest.fixture(scope="module")
def masked_pipe(masked_bundle: Path) -> Iterator[latentrt.Pipeline]:
    """Ours."""
    with latentrt.open(masked_bundle) as pipe:
        yield pipe


def picture(width: int, height: int) -> Image.Image:
    """A smooth picture with an edge."""
    ramp, fall = np.linspace(0, 255, width, dtype=np.uint8), np.linspace(255, 0, height, dtype=np.uint8)[:, None]
    pixels = np.stack(np.broadcast_arrays(ramp, fall, 255 - ramp), axis=-1).copy()
    pixels[height // 4 : height // 2, width // 4 : width // 2] = (250, 200, 30)
    return Image.fromarray(pixels)


def mask(width: int, height: int) -> Image.Image:
    """A rectangle of white on black, off centre, with a grey border on each side of one half."""
    pixels = np.zeros((height, width), np.uint8)
    pixels[height // 8 : height // 2, width // 3 : width - 2] = 120
    pixels[height // 8 + 1 : height // 2 - 1, width // 3 + 1 : width - 3] = 140
    pixels[height // 8 + 2 : height // 2 - 2, width // 3 + 2 : width - 4] = 255
    return Image.fromarray(pixels)


def assert_equal_latents(ours: Array, theirs: Array) -> None:
    """Within the tolerance."""
    parity = parity_of(ours, theirs)
    assert parity.relative_error <= LATENT_TOLERANCE, str(parity)


def psnr(ours: Array, theirs: Array) -> float:
    """Of pictures in [0, 1]."""
    return float(-10 * np.log10(np.mean((ours.astype(np.float64) - theirs) ** 2) + 1e-12))


SAMPLERS = ("ddim", "euler", "euler_a", "dpmpp_2m_k", "dpmpp_2m_sde", "heun", "pndm", "lcm", "ddpm", "deis", "lms")


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("strength", [1.0, 0.6])
@pytest.mark.parametrize("channels", [4, 9])
@pytest.mark.grid(most=6)
def test_inpainting(
    tiny_pipe: latentrt.Pipeline,
    masked_pipe: latentrt.Pipeline,
    reference: DiffusersReference,
    masked_reference: DiffusersReference,
    sampler: str,
    strength: float,
    channels: int,
) -> None:
    """Models with and without mask channels; guidance and none; a mask with values on both sides of one half."""
    pipe, other = (tiny_pipe, reference) if channels == 4 else (masked_pipe, masked_reference)
    image, masked = picture(*SIZE), mask(*SIZE)
    for guidance in (1.0, 7.5):
        expected = other.draw(
            prompt="a red apple",
            sampler=sampler,
            seeds=7,
            size=SIZE,
            steps=6,
            guidance_scale=guidance,
            image=image,
            mask_image=masked,
            strength=strength,
        )
        result = pipe.inpaint(
            "a red apple",
            image=image,
            mask_image=masked,
            strength=strength,
            sampler=sampler,
            seed=7,
            num_inference_steps=6,
            guidance_scale=guidance,
            output_type="np",
            kept_pixels="decoded",
        )
        assert_equal_latents(result.latents, expected.latents)
        assert psnr(np.stack(result.images), expected.pixels) >= PICTURE_PSNR


def test_inpainting_several_pictures(tiny_pipe: latentrt.Pipeline, reference: DiffusersReference) -> None:
    """One generator for three pictures on an engine for two; one mask and picture for all, and one each."""
    pictures = [picture(*SIZE), picture(*SIZE).rotate(90), picture(*SIZE).rotate(180)]
    masks = [mask(*SIZE), mask(*SIZE).rotate(90), mask(*SIZE).rotate(180)]
    for image, masked in ((pictures[0], masks[0]), (pictures, masks)):
        common = {"image": image, "mask_image": masked, "strength": 0.7}
        expected = reference.draw(
            prompt=["a cat", "a dog", ""], sampler="euler_a", seeds=5, size=SIZE, steps=5, **common
        )
        result = tiny_pipe.inpaint(
            ["a cat", "a dog", ""],
            sampler="euler_a",
            seed=5,
            num_inference_steps=5,
            output_type="latent",
            **common,
        )
        assert_equal_latents(result.latents, expected.latents)


@pytest.mark.parametrize("padding", [0, 4, 30])
@pytest.mark.parametrize("size", [(90, 70), (41, 120)])
@pytest.mark.grid
def test_padding_mask_crop(
    tiny_pipe: latentrt.Pipeline, reference: DiffusersReference, padding: int, size: tuple[int, int]
) -> None:
    """The mask's surroundings are drawn at full size and pasted back; what is kept is the source's, bit for bit."""
    image, masked = picture(*size), mask(*size)
    common = {"image": image, "mask_image": masked, "strength": 1.0, "padding_mask_crop": padding}
    expected = reference.draw(
        prompt="a red apple", sampler="ddim", seeds=3, size=SIZE, steps=4, output_type="pil", **common
    )
    result = tiny_pipe.inpaint(
        "a red apple", sampler="ddim", seed=3, num_inference_steps=4, width=SIZE[0], height=SIZE[1], **common
    )
    ours = np.asarray(result.images[0])
    assert ours.shape == (size[1], size[0], 3)
    weights = np.asarray(masked)
    kept, drawn = weights < 128, weights == 255
    np.testing.assert_array_equal(ours[kept], np.asarray(image)[kept])
    # 8-bit pictures that were resized twice
    np.testing.assert_allclose(ours[drawn].astype(int), expected.pixels[0][drawn].astype(int), atol=2)
    assert (ours[drawn] != np.asarray(image)[drawn]).any()


def test_kept_pixels_are_exact_without_a_crop(tiny_pipe: latentrt.Pipeline) -> None:
    """By default; decoded pixels are not."""
    image, masked = picture(*SIZE), mask(*SIZE)
    common = {"image": image, "mask_image": masked, "seed": 1, "num_inference_steps": 3}
    kept = np.asarray(masked) < 128
    exact = np.asarray(tiny_pipe.inpaint("x", **common).images[0])
    decoded = np.asarray(tiny_pipe.inpaint("x", kept_pixels="decoded", **common).images[0])
    np.testing.assert_array_equal(exact[kept], np.asarray(image)[kept])
    assert (decoded[kept] != np.asarray(image)[kept]).any()


def test_outpainting_is_inpainting_on_a_larger_canvas(
    tiny_pipe: latentrt.Pipeline, reference: DiffusersReference
) -> None:
    """Same latents as diffusers on the canvas; the picture comes back bit for bit."""
    from latentrt.runtime.pictures.outpaint import outpaint_canvas

    image = picture(32, 32)
    canvas, masked = outpaint_canvas(image, left=10, right=6)
    expected = reference.draw(
        prompt="a cat",
        sampler="euler",
        seeds=2,
        size=(48, 32),
        steps=5,
        image=canvas,
        mask_image=masked,
        strength=0.8,
    )
    result = tiny_pipe.outpaint(
        "a cat", image=image, left=10, right=6, strength=0.8, sampler="euler", seed=2, num_inference_steps=5
    )
    assert_equal_latents(result.latents, expected.latents)
    np.testing.assert_array_equal(np.asarray(result.images[0])[:, 10:42], np.asarray(image))


@pytest.mark.parametrize("rescale", [0.3, 1.0])
def test_guidance_rescale(tiny_pipe: latentrt.Pipeline, reference: DiffusersReference, rescale: float) -> None:
    """φ of arXiv 2305.08891."""
    expected = reference.draw(
        prompt="a cat", sampler="euler", seeds=2, size=SIZE, steps=5, guidance_scale=9.0, guidance_rescale=rescale
    )
    result = tiny_pipe(
        "a cat",
        sampler="euler",
        seed=2,
        num_inference_steps=5,
        guidance_scale=9.0,
        guidance_rescale=rescale,
        output_type="latent",
    )
    assert_equal_latents(result.latents, expected.latents)


@pytest.mark.parametrize("sampler", ["dpmpp_2m", "heun", "pndm"])
def test_guidance_per_step(tiny_pipe: latentrt.Pipeline, reference: DiffusersReference, sampler: str) -> None:
    """Five weights, two of them without guidance; diffusers takes them from a callback."""
    scales = [9.0, 7.0, 5.0, 1.0, 1.0]
    schedule = Sampler(name=sampler).schedule(tiny_pipe.manifest.schedule, 5)
    ratios = sorted({step.level.ratio for step in schedule.all_steps}, reverse=True)
    timesteps = {round(step.level.timestep, 3): ratios.index(step.level.ratio) for step in schedule.all_steps}

    def change(pipe: Any, index: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        later = pipe.scheduler.timesteps[index + 1 :]
        if len(later):
            scale = scales[timesteps[round(float(later[0]), 3)]]
            if scale <= 1.0 < pipe._guidance_scale:
                tensors["prompt_embeds"] = tensors["prompt_embeds"].chunk(2)[-1]
            pipe._guidance_scale = scale
        return tensors

    expected = reference.draw(
        prompt="a cat",
        sampler=sampler,
        seeds=2,
        size=SIZE,
        steps=5,
        guidance_scale=scales[0],
        callback_on_step_end=change,
        callback_on_step_end_tensor_inputs=["latents", "prompt_embeds"],
    )
    result = tiny_pipe(
        "a cat", sampler=sampler, seed=2, num_inference_steps=5, guidance_scale=scales, output_type="latent", width=32
    )
    assert_equal_latents(result.latents, expected.latents)


def test_guidance_interval_is_guidance_per_step(tiny_pipe: latentrt.Pipeline) -> None:
    """Ten steps from 20 % to 50 %: the third to the fifth are guided, and cost a call of two."""
    common = {"sampler": "euler", "seed": 2, "num_inference_steps": 10, "output_type": "latent", "width": 32}
    interval = tiny_pipe("a cat", guidance_scale=6.0, guidance_start=0.2, guidance_end=0.5, **common)
    listed = tiny_pipe("a cat", guidance_scale=[1, 1, 6, 6, 6, 1, 1, 1, 1, 1], **common)
    np.testing.assert_array_equal(interval.latents, listed.latents)
    whole = tiny_pipe("a cat", guidance_scale=6.0, **common)
    assert not np.array_equal(interval.latents, whole.latents)


def unet_of(reference: DiffusersReference, prompt: str) -> Any:
    """The reference's U-Net on one prompt, without guidance."""
    with torch.inference_mode():
        context = reference.text.encode_prompt(prompt, "cpu", 1, False)[0]

    def model(x: torch.Tensor, timestep: Any) -> torch.Tensor:
        with torch.inference_mode():
            return reference.text.unet(x, timestep, encoder_hidden_states=context, return_dict=False)[0]

    return model


@pytest.mark.parametrize("sampler", ["euler", "ddim", "dpmpp_2m", "heun", "kdpm_2", "unipc"])
@pytest.mark.parametrize("share", [0.3, 0.55, 0.8])
@pytest.mark.grid(most=5)
def test_denoising_end_and_start(
    tiny_pipe: latentrt.Pipeline, reference: DiffusersReference, sampler: str, share: float
) -> None:
    """The reference's timesteps, cut as SDXL's pipelines cut them: t ≥ round(T − d·T) before, the others after."""
    steps, model = 7, unet_of(reference, "a cat")
    scheduler = scheduler_for(sampler, reference.config)
    set_timesteps(scheduler, Sampler(name=sampler), steps)
    timesteps = scheduler.timesteps
    cutoff = round(1000 - share * 1000)

    def run(x: torch.Tensor, first: int, count: int) -> torch.Tensor:
        scheduler = scheduler_for(sampler, reference.config)
        scheduler.set_timesteps(steps)
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(first)
        for t in timesteps[first : first + count]:
            x = scheduler.step(model(scheduler.scale_model_input(x, t), t), t, x, return_dict=False)[0]
        return x

    common: dict[str, Any] = {
        "sampler": sampler,
        "num_inference_steps": steps,
        "guidance_scale": 1.0,
        "output_type": "latent",
    }
    start = np.random.default_rng(0).standard_normal((1, 4, 16, 16), np.float32)
    before = int((timesteps >= cutoff).sum())
    expected = run(torch.from_numpy(start) * scheduler.init_noise_sigma, 0, before)
    result = tiny_pipe("a cat", latents=start, denoising_end=share, width=32, **common)
    assert_equal_latents(result.latents, expected.numpy())

    left = int((timesteps < cutoff).sum())
    left += scheduler.order == 2 and left % 2 == 0
    expected = run(expected, len(timesteps) - left, left)
    finished = tiny_pipe.img2img("a cat", image=result.latents, denoising_start=share, **common)
    assert_equal_latents(finished.latents, expected.numpy())


@pytest.mark.parametrize("sampler", ["euler", "ddim"])
def test_two_halves_are_the_whole(tiny_pipe: latentrt.Pipeline, sampler: str) -> None:
    """Solvers without memory: stopping and going on changes nothing."""
    common: dict[str, Any] = {"sampler": sampler, "num_inference_steps": 8, "output_type": "latent"}
    whole = tiny_pipe("a cat", seed=1, width=32, **common)
    first = tiny_pipe("a cat", seed=1, denoising_end=0.4, width=32, **common)
    second = tiny_pipe.img2img("a cat", image=first.latents, denoising_start=0.4, **common)
    assert first.timings.unet_calls + second.timings.unet_calls == whole.timings.unet_calls
    np.testing.assert_allclose(second.latents, whole.latents, atol=1e-5)


CUSTOM = [
    ("dpmpp_2m", {"timesteps": AYS_TIMESTEPS["sd1"]}),
    ("euler", {"timesteps": (900, 600, 300)}),
    ("euler", {"sigmas": AYS_SIGMAS["sd1"]}),
    ("heun", {"timesteps": AYS_TIMESTEPS["sdxl"]}),
]


@pytest.mark.parametrize(("sampler", "custom"), CUSTOM, ids=str)
@pytest.mark.parametrize("strength", [None, 0.5])
@pytest.mark.grid
def test_custom_timesteps_and_sigmas(
    tiny_pipe: latentrt.Pipeline,
    reference: DiffusersReference,
    sampler: str,
    custom: Mapping[str, Any],
    strength: float | None,
) -> None:
    """Given in the call, as diffusers' pipelines take them."""
    if sampler == "heun" and strength is not None:
        pytest.skip("the reference counts Heun's custom timesteps twice, and nothing is left to do")
    image = None if strength is None else picture(*SIZE)
    expected = reference.draw(
        prompt="a cat",
        sampler=Sampler(name=sampler, **custom),
        seeds=2,
        size=SIZE,
        image=image,
        strength=strength,
    )
    common = {"sampler": sampler, "seed": 2, "output_type": "latent", **custom}
    result = (
        tiny_pipe("a cat", width=32, **common)
        if image is None
        else tiny_pipe.img2img("a cat", image=image, strength=strength, **common)
    )
    assert_equal_latents(result.latents, expected.latents)


@pytest.mark.parametrize("eta", [0.0, 0.6, 1.0])
@pytest.mark.parametrize("sampler", ["ddim", "tcd"])
@pytest.mark.grid
def test_eta(tiny_pipe: latentrt.Pipeline, reference: DiffusersReference, sampler: str, eta: float) -> None:
    """diffusers' pipelines take it as a keyword; ours is an option of the sampler."""
    chosen = Sampler(name=sampler, eta=eta)
    expected = reference.draw(prompt="a cat", sampler=chosen, seeds=2, size=SIZE, steps=5)
    result = tiny_pipe("a cat", sampler=chosen, seed=2, num_inference_steps=5, output_type="latent", width=32)
    assert_equal_latents(result.latents, expected.latents)


@pytest.mark.parametrize("sampler", ["dpmpp_2m", "heun"])
def test_a_callback_replaces_latents(tiny_pipe: latentrt.Pipeline, reference: DiffusersReference, sampler: str) -> None:
    """After the second update, on both sides."""

    def change(pipe: Any, index: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        return {"latents": tensors["latents"] * 0.9 + 0.01} if index == 1 else dict(tensors)

    def ours(pipe: Any, index: int, timestep: float, tensors: dict[str, Array]) -> dict[str, Array] | None:
        return {"latents": tensors["latents"] * 0.9 + 0.01} if index == 1 else None

    expected = reference.draw(prompt="a cat", sampler=sampler, seeds=2, size=SIZE, steps=5, callback_on_step_end=change)
    result = tiny_pipe(
        "a cat",
        sampler=sampler,
        seed=2,
        num_inference_steps=5,
        callback_on_step_end=ours,
        output_type="latent",
        width=32,
    )
    assert_equal_latents(result.latents, expected.latents)


@pytest.mark.parametrize("sampler", ["euler", "heun", "dpmpp_2m"])
def test_interruption(tiny_pipe: latentrt.Pipeline, reference: DiffusersReference, sampler: str) -> None:
    """Both sides stop after the third model call and return what there is."""

    def stop(pipe: Any, index: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        pipe._interrupt = index == 2
        return tensors

    def ours(pipe: Any, index: int, timestep: float, tensors: dict[str, Array]) -> None:
        if index == 2:
            raise latentrt.Interrupt

    expected = reference.draw(prompt="a cat", sampler=sampler, seeds=2, size=SIZE, steps=6, callback_on_step_end=stop)
    result = tiny_pipe(
        "a cat",
        sampler=sampler,
        seed=2,
        num_inference_steps=6,
        callback_on_step_end=ours,
        output_type="np",
        width=32,
    )
    assert result.interrupted
    assert result.timings.unet_calls == 3
    assert_equal_latents(result.latents, expected.latents)
    assert psnr(np.stack(result.images), expected.pixels) >= PICTURE_PSNR


def test_latents_in(tiny_pipe: latentrt.Pipeline, reference: DiffusersReference) -> None:
    """Initial noise of the caller's, in text-to-image and inpainting."""
    start = np.random.default_rng(0).standard_normal((1, 4, 16, 16), np.float32)
    given = torch.from_numpy(start)
    expected = reference.draw(prompt="a cat", sampler="euler", seeds=2, size=SIZE, steps=5, latents=given)
    result = tiny_pipe("a cat", sampler="euler", num_inference_steps=5, latents=start, output_type="latent", width=32)
    assert_equal_latents(result.latents, expected.latents)
    common = {"image": picture(*SIZE), "mask_image": mask(*SIZE)}
    expected = reference.draw(
        prompt="a cat", sampler="euler", seeds=2, size=SIZE, steps=5, latents=given, strength=1.0, **common
    )
    result = tiny_pipe.inpaint(
        "a cat", sampler="euler", seed=2, num_inference_steps=5, latents=start, output_type="latent", **common
    )
    assert_equal_latents(result.latents, expected.latents)


def test_denoised_of_the_callback_is_what_diffusers_predicts(
    tiny_pipe: latentrt.Pipeline, reference: DiffusersReference
) -> None:
    """The clean sample that the preview is made of: its schedulers' pred_original_sample."""
    steps, model = 4, unet_of(reference, "a cat")
    scheduler = scheduler_for("ddim", reference.config)
    scheduler.set_timesteps(steps)
    start = np.random.default_rng(0).standard_normal((1, 4, 16, 16), np.float32)
    x, expected = torch.from_numpy(start), []
    for t in scheduler.timesteps:
        update = scheduler.step(model(x, t), t, x)
        x = update.prev_sample
        expected.append(update.pred_original_sample.numpy())
    seen: list[Array] = []

    def keep(pipe: latentrt.Pipeline, index: int, timestep: float, tensors: dict[str, Array]) -> None:
        seen.append(tensors["denoised"])
        assert pipe.preview(tensors["denoised"])[0].size == (16, 16)

    tiny_pipe(
        "a cat",
        sampler="ddim",
        latents=start,
        num_inference_steps=steps,
        guidance_scale=1.0,
        callback_on_step_end=keep,
        output_type="latent",
        width=32,
    )
    for ours, theirs in zip(seen, expected, strict=True):
        assert_equal_latents(ours, theirs)


@pytest.mark.parametrize("vae", ["sliced", "tiled"])
def test_the_autoencoder_in_pieces(tiny_pipe: latentrt.Pipeline, vae: str) -> None:
    """The same pictures, as none is larger than a tile; both ways."""
    common: dict[str, Any] = {"image": picture(*SIZE), "seed": [1, 2, 3], "num_inference_steps": 2, "output_type": "np"}
    whole = tiny_pipe.img2img(["a", "b", "c"], **common)
    pieces = tiny_pipe.img2img(["a", "b", "c"], vae=vae, **common)
    assert psnr(np.stack(pieces.images), np.stack(whole.images)) >= 80.0
