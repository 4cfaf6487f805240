"""A call with hires, drawn: a first pass, what lies between, and a second one at the larger size."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from time import perf_counter
from typing import Any

from latentrt.engines.bundle.kinds import VAE_DECODER, VAE_ENCODER
from latentrt.engines.store.components import Engines
from latentrt.runtime.call.drawing import Denoising, check_finite, decoded, prepared
from latentrt.runtime.call.hires.enlarging import enlarged
from latentrt.runtime.call.hires.hires import LatentUpscaler
from latentrt.runtime.call.hires.memory import check_memory
from latentrt.runtime.call.hires.second_pass import SecondPass
from latentrt.runtime.call.initial_latents import InitialLatents, latents_from_images
from latentrt.runtime.call.request import Request
from latentrt.runtime.call.result import OutputType, Result, Timings
from latentrt.runtime.denoiser.conditions.text import TextCondition
from latentrt.runtime.pictures.tiling import vae_engine
from latentrt.runtime.prompts.text_encoder import TextEncoder, inversions_of
from latentrt.runtime.sampling.noise import Noise
from latentrt.runtime.sampling.run import denoise


def draw_hires(
    pipeline: Any,
    engines: Engines,
    text_encoders: Sequence[TextEncoder],
    request: Request,
    initial: InitialLatents,
    noise: Noise,
    begin: float,
) -> Result:
    """As ``draw``, with the second pass of the request. A callback that interrupts the first pass ends the call.

    The second pass's noise is that of its seeds from their beginning, at its size: in image-to-image, too, the same
    seeds begin anew.

    Raises:
        EngineError: the U-Net led to numbers that are none, or no engine has one of the sizes.
        RequestError: memory does not hold the larger size.
    """
    started = perf_counter()
    assert request.second is not None  # the caller saw to it; for the type checker
    second, space = request.second, engines.bundle.manifest.latents
    larger = second.request
    encodes = not isinstance(second.upscaler, LatentUpscaler)
    decodes = request.delivery.output_type is not OutputType.LATENT
    parts = (*(VAE_ENCODER,) * encodes, *(VAE_DECODER,) * decodes)
    check_memory(engines.bundle, engines.backend, larger, parts)
    opened = partial(vae_engine, engines, mode=request.canvas.vae)
    for part in parts:  # what has no engine is found before anything is drawn
        opened(part, larger.canvas.profile)
    first = prepared(engines, text_encoders, request)
    last = prepared(engines, text_encoders, larger, text=_text_of_second(first, second))
    calls = len(request.sampling.levels), len(larger.sampling.levels)
    encoded = perf_counter()

    run = first.run(pipeline, initial, noise, after=calls[1])
    latents = small = denoise(run, first.denoiser)
    seconds, unet_calls, drawn = run.seconds, first.denoiser.engine_calls, replace(request, second=None)
    between = enlarging = perf_counter()
    check_finite(latents)
    if not run.interrupted:
        pictures = enlarged(second, space, latents, partial(opened, VAE_DECODER, request.canvas.profile))
        noise = Noise(request.sampling.seeds, larger.latent_shape)
        encoder = partial(opened, VAE_ENCODER, larger.canvas.profile)
        initial = latents_from_images(engines.bundle.manifest, larger, pictures, noise, encoder)
        enlarging = perf_counter()
        run = last.run(pipeline, initial, noise, before=calls[0])
        latents = denoise(run, last.denoiser)
        check_finite(latents)
        seconds, unet_calls, drawn = [*seconds, *run.seconds], unet_calls + last.denoiser.engine_calls, larger
    denoised = perf_counter()
    images = decoded(engines, drawn, latents)
    end = perf_counter()
    return Result(
        images=images,
        latents=latents,
        seeds=request.seed_of_each,
        timings=Timings(
            encode_prompt=encoded - started,
            encode_image=started - begin,
            denoise=denoised - encoded - (enlarging - between),
            calls=tuple(seconds),
            unet_calls=unet_calls,
            decode=end - denoised,
            total=end - begin,
            enlarge=enlarging - between,
        ),
        metadata=(request if drawn is larger else drawn).metadata(inversions_of(text_encoders)),
        interrupted=run.interrupted,
        first_pass=small,
    )


def _text_of_second(first: Denoising, second: SecondPass) -> TextCondition | None:
    """The first pass's prompts for the steps of the second; None where that reads others."""
    request, larger, text = first.request, second.request, first.conditioning.text
    plan, of_second = request.prompts.plan, larger.prompts.plan
    same_prompts = request.prompts.of_encoders is larger.prompts.of_encoders and plan.texts == of_second.texts
    if not same_prompts or request.guidance.guides is not larger.guidance.guides:
        return None
    of_pass = {
        which: replace(one, of_step=of_second.of_step.get(which, one.of_step)) for which, one in text.of_pass.items()
    }
    return replace(text, of_pass=of_pass, ratios=larger.sampling.ratios)
