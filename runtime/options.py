"""The keywords that every way of drawing takes."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypedDict

from latentrt.engines.spec import Array
from latentrt.runtime.prompt import LongPrompt, PromptSyntax
from latentrt.runtime.samplers import Sampler
from latentrt.runtime.tiling import VaeMode

CallbackOnStepEnd = Callable[[Any, int, float, dict[str, Array]], Mapping[str, Array] | None]
OnProgress = Callable[[int, int], None]


class Options(TypedDict, total=False):
    """What a call may say beyond its prompt and pictures; the names are diffusers' own where it has them.

    What is left out, or None, is the bundle's default.

    Attributes:
        negative_prompt: what to steer away from: one for all, or one per prompt.
        prompt_syntax: how weights are written in the prompts: "plain" (not at all), "compel" or "a1111".
        long_prompt: "truncate" leaves out what the text encoder cannot read at once and warns; "chunk" encodes it
            in chunks. None truncates plain prompts and chunks the others.
        clip_skip: how many of the text encoder's last layers to leave out for the prompt.
        width: in pixels; together with ``height`` a size that the bundle has a profile for. None takes the size of
            the picture given, or the bundle's first profile.
        height: in pixels.
        num_inference_steps: sampler steps of the whole schedule.
        sampler: a name from ``latentrt samplers``, or a ``Sampler`` with wishes about its schedule and options.
        timesteps: training timesteps to visit instead of the sampler's own, descending; "ays" for Align Your Steps.
        sigmas: noise levels to visit instead, descending, the last one being where the last step ends (0); or "ays".
        guidance_scale: weight of classifier-free guidance, one for all steps or one per step of the whole schedule,
            also where strength leaves some out; at most 1 means none and half the work.
        guidance_rescale: φ of arXiv 2305.08891, 0 to 1, against the overexposure of strong guidance.
        guidance_start: the part of the steps, 0 to 1, that passes before guidance begins.
        guidance_end: the part of the steps after which it ends.
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

    negative_prompt: str | Sequence[str] | None
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
    denoising_end: float | None
    denoising_start: float | None
    seed: int | Sequence[int] | None
    num_images_per_prompt: int
    latents: Array | None
    vae: str | VaeMode
    output_type: str
    callback_on_step_end: CallbackOnStepEnd | None
    progress: OnProgress | None
