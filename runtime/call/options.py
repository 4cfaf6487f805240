"""The keywords that every way of drawing takes."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypedDict

from latentrt.engines.spec import Array
from latentrt.runtime.pictures.tiling import VaeMode
from latentrt.runtime.prompts.style import LongPrompt, PromptSyntax
from latentrt.runtime.sampling.samplers import Sampler

CallbackOnStepEnd = Callable[[Any, int, float, dict[str, Array]], Mapping[str, Array] | None]
OnProgress = Callable[[int, int], None]


class Options(TypedDict, total=False):
    """What a call may say beyond its prompt and pictures; the names are diffusers' own where it has them.

    What is left out, or None, is the bundle's default.

    Attributes:
        prompt_2: models with two text encoders: what the second one reads instead of the prompt, one for all or one
            per prompt.
        negative_prompt: what to steer away from: one for all, or one per prompt. Where it is left out, SDXL's base
            model steers away from zeros; "" is the empty prompt for all models.
        negative_prompt_2: what the second text encoder reads instead of it.
        prompt_syntax: how weights are written in the prompts: "plain" (not at all), "compel" or "a1111".
        long_prompt: "truncate" leaves out what the text encoder cannot read at once and warns; "chunk" encodes it
            in chunks. None truncates plain prompts and chunks the others.
        clip_skip: how many of the text encoders' last layers to leave out for the prompt, beyond those that the model
            leaves out.
        width: in pixels; together with ``height`` a size that the bundle has a profile for. None takes the size of
            the picture given, or the bundle's first profile.
        height: in pixels.
        num_inference_steps: sampler steps of the whole schedule.
        sampler: a name from ``latentrt samplers``, or a ``Sampler`` with wishes about its schedule and options.
        timesteps: training timesteps to visit instead of the sampler's own, descending; "ays" for Align Your Steps.
        sigmas: noise levels to visit instead, descending, the last one being where the last step ends (0); or "ays".
        guidance_scale: weight of classifier-free guidance, one for all steps or one per step of the whole schedule,
            also where strength leaves some out; at most 1 means none and half the work. Models that are told it (LCM)
            need one half only, whatever it is.
        guidance_rescale: φ of arXiv 2305.08891, 0 to 1, against the overexposure of strong guidance.
        guidance_start: the part of the steps, 0 to 1, that passes before guidance begins.
        guidance_end: the part of the steps after which it ends.
        original_size: SDXL: (height, width) of the picture that the result shall look like a version of; the size
            drawn if left out.
        crops_coords_top_left: SDXL: (top, left) of the part of it that the result shall look like; (0, 0) is framed
            best.
        target_size: SDXL: (height, width) that the result shall look like; the size drawn if left out.
        negative_original_size: SDXL: the same for what to steer away from, as with the two that follow.
        negative_crops_coords_top_left: (top, left).
        negative_target_size: (height, width).
        aesthetic_score: SDXL's refiner: how good the result shall look, 6 if left out.
        negative_aesthetic_score: how good what to steer away from looks, 2.5 if left out.
        denoising_end: the part of the training timesteps, 0 to 1, after which to stop and hand the latents on. A
            sampler with two calls a step may stop between them, as in diffusers; what goes on repeats the first.
        denoising_start: image-to-image only: where such a hand-over goes on from the latents given as ``image``; no
            noise is added.
        seed: one seed for the whole batch, as ``torch.Generator().manual_seed`` in diffusers, or one per picture.
            None draws one at random per picture.
        num_images_per_prompt: pictures of each prompt, in the order of the prompts.
        latents: initial noise (N, C, H/f, W/f) float32 of unit variance instead of the seed's.
        vae: how pictures go through the autoencoder: "whole", "sliced" (one by one), or "tiled", which needs far
            less memory for large pictures.
        output_type: "pil", "np" or "latent".
        callback_on_step_end: called as f(pipeline, step, timestep, {"latents": x, "denoised": x₀}) after every
            model call; ``latents`` in a returned mapping replaces x. ``pipeline.preview(x₀)`` shows it, and
            ``raise latentrt.Interrupt`` ends the run with what there is.
        progress: called as f(done, total) after every model call.
    """

    prompt_2: str | Sequence[str] | None
    negative_prompt: str | Sequence[str] | None
    negative_prompt_2: str | Sequence[str] | None
    prompt_syntax: str | PromptSyntax
    long_prompt: str | LongPrompt | None
    clip_skip: int | None
    width: int | None
    height: int | None
    num_inference_steps: int | None
    sampler: str | Sampler | None
    timesteps: Sequence[int] | str | None
    sigmas: Sequence[float] | str | None
    guidance_scale: float | Sequence[float] | None
    guidance_rescale: float
    guidance_start: float
    guidance_end: float
    original_size: tuple[int, int] | None
    crops_coords_top_left: tuple[int, int] | None
    target_size: tuple[int, int] | None
    negative_original_size: tuple[int, int] | None
    negative_crops_coords_top_left: tuple[int, int] | None
    negative_target_size: tuple[int, int] | None
    aesthetic_score: float | None
    negative_aesthetic_score: float | None
    denoising_end: float | None
    denoising_start: float | None
    seed: int | Sequence[int] | None
    num_images_per_prompt: int
    latents: Array | None
    vae: str | VaeMode
    output_type: str
    callback_on_step_end: CallbackOnStepEnd | None
    progress: OnProgress | None
