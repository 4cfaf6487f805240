"""A call that was checked, drawn: prompts encoded, latents denoised and decoded."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from latentrt.engines.bundle.kinds import UNET, VAE_DECODER
from latentrt.engines.engine import Engine
from latentrt.engines.errors import NotFiniteError
from latentrt.engines.shapes import Loop, Profile, Shapes
from latentrt.engines.spec import Array
from latentrt.engines.store.components import Engines
from latentrt.runtime.call.checked_call import CheckedCall
from latentrt.runtime.call.conditioning import Conditioning
from latentrt.runtime.call.guidance.guidance import composition_of
from latentrt.runtime.call.initial_latents import InitialLatents
from latentrt.runtime.call.prompts.prompt_set import PromptSet
from latentrt.runtime.call.request import Request
from latentrt.runtime.call.result import OutputType, Result, Timings
from latentrt.runtime.checks import warn_caller
from latentrt.runtime.denoiser.conditions.text import TextCondition, text_condition
from latentrt.runtime.denoiser.denoiser import AnyDenoiser, Denoiser
from latentrt.runtime.pictures.autoencoder import pixels_from_latents
from latentrt.runtime.pictures.image import images_from_pixels
from latentrt.runtime.pictures.tiling import vae_engine
from latentrt.runtime.prompts.encoder import PromptEncoder
from latentrt.runtime.prompts.text_encoder import TextEncoder, inversions_of
from latentrt.runtime.prompts.textual_inversion import UnusedTextualInversionWarning
from latentrt.runtime.sampling.noise import Noise
from latentrt.runtime.sampling.run import AnyRun, Run

if TYPE_CHECKING:
    from latentrt.engines.changes import Changes
    from latentrt.runtime.call.loras import CallLoras
    from latentrt.runtime.pictures.mask import InpaintInput
    from latentrt.runtime.sampling.trace import Table


def draw(
    pipeline: Any,
    engines: Engines,
    text_encoders: Sequence[TextEncoder],
    call: CheckedCall,
    begin: float,
) -> Result:
    """Makes what the run starts from, encodes the prompts, denoises and decodes.

    Args:
        pipeline: what a callback is given.
        engines: the bundle's.
        text_encoders: with what is loaded into them.
        call: what to draw.
        begin: ``perf_counter`` as the call began.

    Raises:
        NotFiniteError: the U-Net led to numbers that are none.
    """
    request = call.request
    noise = Noise(request.sampling.seeds, request.latent_shape)
    initial = call.start(engines, noise)
    if request.second is not None:
        from latentrt.runtime.call.hires.drawing import draw_hires  # loaded by those who use it

        return draw_hires(pipeline, engines, text_encoders, request, initial, noise, begin)
    started = perf_counter()
    only = prepared(engines, text_encoders, request, initial)
    encoded = perf_counter()
    run = only.run(pipeline, initial, noise)
    for asked in run:
        run.answer(only.denoiser(asked.x, asked.level))
    latents, denoised = run.x, perf_counter()
    check_finite(latents)
    images = decoded(engines, request, latents, initial.paste)
    end = perf_counter()
    return Result(
        images=images,
        latents=latents,
        seeds=request.seed_of_each,
        timings=Timings(
            encode_prompt=encoded - started,
            encode_image=started - begin,
            denoise=denoised - encoded,
            calls=tuple(run.seconds),
            unet_calls=only.denoiser.engine_calls,
            decode=end - denoised,
            total=end - begin,
        ),
        metadata=request.metadata(inversions_of(text_encoders)),
        interrupted=run.interrupted,
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class Denoising:
    """What denoises the latents of a request, with its engine opened and its prompts encoded."""

    request: Request
    conditioning: Conditioning
    denoiser: AnyDenoiser
    table: "Table | None" = None

    def run(
        self, pipeline: Any, initial: InitialLatents, noise: Noise, *, before: int = 0, after: int = 0
    ) -> AnyRun[Any]:
        """The run, begun; where there is a table, its calls are whole steps.

        Args:
            pipeline: what a callback is given.
            initial: what the run starts from.
            noise: of the run.
            before: model calls of runs before this one, for who counts them.
            after: model calls of runs behind it.
        """
        request, on_step = self.request, None
        if request.delivery.watched:
            from latentrt.runtime.call.callbacks import StepCallbacks  # loaded by those who watch

            callbacks = StepCallbacks(pipeline, request, self.denoiser, self.conditioning, before=before, after=after)
            on_step = callbacks.on_step
        sampling, keep = request.sampling, initial.keep
        if self.table is not None:
            from latentrt.runtime.sampling.step_run import StepRun  # loaded by those whose loop is on the device

            return StepRun(
                initial.x,
                self.table,
                sampling.schedule,
                noise.between,
                keep=keep,
                on_step=on_step,
                stop_below=sampling.stop_below,
            )
        return Run(
            initial.x,
            sampling.schedule,
            sampling.solver,
            noise.between,
            keep=keep,
            on_step=on_step,
            stop_below=sampling.stop_below,
        )


def prepared(
    engines: Engines,
    text_encoders: Sequence[TextEncoder],
    request: Request,
    initial: InitialLatents | None = None,
    *,
    text: TextCondition | None = None,
) -> Denoising:
    """Encodes the prompts and opens the engine.

    Args:
        engines: the bundle's.
        text_encoders: with what is loaded into them.
        request: what to draw.
        initial: what the run starts from, where that conditions the U-Net.
        text: the prompts, where they are encoded.
    """
    guidance, crops = request.guidance, () if initial is None or initial.paste is None else initial.paste.crops
    if crops and request.prompts.regions is not None:
        weights = request.prompts.weights(engines.bundle.manifest.latents, request.canvas.profile, crops)
        guidance = replace(guidance, composition=composition_of(weights))
    if text is None and initial is not None:
        text = initial.seen
    if text is None:
        text = encode(
            engines,
            text_encoders,
            request.prompts,
            request.canvas.profile,
            guides=guidance.guides,
            ratios=request.sampling.ratios,
            loras=request.loras,
        )
    shapes = Shapes(profile=request.canvas.profile, chunks=text.chunks)
    conditioning = Conditioning(
        text=text,
        guidance=guidance,
        guider=guidance.guider(),
        others=(
            *request.canvas.conditions(request.count),
            *(() if initial is None else initial.conditions),
            *(use.condition(shapes, request.count, crops) for use in request.addons),
        ),
    )
    for use in request.addons:
        shapes = use.opened_for(shapes)
    opened = partial(engines.engine, UNET, changes=_changes(request.loras, UNET))
    if engines.loop is Loop.DEVICE:
        from latentrt.runtime.call.device_loop import device_steps  # loaded by those who use it

        steps = device_steps(opened, shapes, request, conditioning)
        if steps is not None:
            return Denoising(request=request, conditioning=conditioning, denoiser=steps[0], table=steps[1])
    denoiser = _denoiser(opened, shapes, request, conditioning)
    return Denoising(request=request, conditioning=conditioning, denoiser=denoiser)


def _denoiser(
    opened: Callable[[Shapes], Engine], shapes: Shapes, request: Request, conditioning: Conditioning
) -> Denoiser:
    """The U-Net under guidance, with its engines opened."""
    conditions, guider, cache = conditioning.conditions, conditioning.guider, request.deep_cache
    if cache is None:
        return Denoiser(opened(shapes), conditions, guider)
    from latentrt.runtime.denoiser.deep_cache import cached_denoiser  # loaded by those who use it

    return cached_denoiser(opened, shapes, conditions, guider, interval=cache.interval, branch=cache.branch)


def check_finite(latents: Array) -> None:
    """Refuses what no picture comes of.

    Raises:
        NotFiniteError: NaN or infinity.
    """
    if not np.isfinite(latents).all():
        raise NotFiniteError(
            "the U-Net led to NaN or infinity, expected finite latents; lower guidance_scale, build an fp16 bundle "
            "again with --fp32 unet, or find what overflows with latentrt debug"
        )


def decoded(
    engines: Engines, request: Request, latents: Array, paste: "InpaintInput | None" = None
) -> list[Image.Image] | list[Array]:
    """The pictures of latents, in the form that is wanted; none where the latents are.

    Args:
        engines: the bundle's.
        request: what was drawn.
        latents: (N, C, H/f, W/f).
        paste: the pictures that they are laid over, where there are any.
    """
    if request.delivery.output_type is OutputType.LATENT:
        return []
    decoder = vae_engine(engines, VAE_DECODER, request.canvas.profile, request.canvas.vae)
    pixels = pixels_from_latents(decoder, engines.bundle.manifest.latents, latents)
    return _finished(pixels, paste, request.delivery.output_type)


def encode(
    engines: Engines,
    text_encoders: Sequence[TextEncoder],
    prompts: PromptSet,
    profile: Profile,
    *,
    guides: bool,
    loras: "CallLoras | None",
    ratios: tuple[float, ...] = (),
) -> TextCondition:
    """The prompts, encoded.

    Args:
        engines: the bundle's.
        text_encoders: with what is loaded into them.
        prompts: of the call.
        profile: of its pictures.
        guides: whether negative prompts are wanted.
        loras: of the call.
        ratios: the noise-to-signal ratios of the run's steps, for prompts that change.
    """
    unnamed = inversions_of(text_encoders).unnamed(prompts.written)
    if unnamed and prompts.given is None:  # what was encoded before may name them
        warn_caller(
            f"no prompt names the textual inversion {', '.join(map(repr, unnamed))}; write the trigger in one, or "
            "unload it",
            UnusedTextualInversionWarning,
        )
    components = [encoder.record.component for encoder in text_encoders]
    encoders = (  # of prompts that were encoded before nothing is opened
        PromptEncoder(encoder, engines.engine(component, Shapes(profile=profile), _changes(loras, component)))
        for encoder, component in zip(text_encoders, components, strict=True)
    )
    return text_condition(
        encoders, prompts.plan, prompts.options, prompts.trees, guides=guides, ratios=ratios, given=prompts.given
    )


def _changes(loras: "CallLoras | None", component: str) -> "Changes | None":
    """What the LoRAs of a call change about a component."""
    return None if loras is None else loras.members.changes(component)


def _finished(pixels: Array, paste: "InpaintInput | None", output_type: OutputType) -> list[Image.Image] | list[Array]:
    """Drawn pictures (N, H, W, 3) in the form wanted, laid over their sources where there are any."""
    pictures = list(pixels)
    if paste is not None:
        from latentrt.runtime.pictures.mask import paste_back

        pictures = paste_back(paste, pixels)
    if output_type is OutputType.NUMPY:
        return pictures
    return [images_from_pixels(picture[None])[0] for picture in pictures]
