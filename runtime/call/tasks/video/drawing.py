"""A checked call of videos, drawn: pictures encoded, latents denoised, frames decoded chunk by chunk."""

from contextlib import suppress
from dataclasses import replace
from time import perf_counter
from typing import Any

from latentrt.engines.spec import Array
from latentrt.engines.store.components import Engines
from latentrt.runtime.call.checked_call import CheckedCall
from latentrt.runtime.call.drawing import check_finite, prepared
from latentrt.runtime.call.request import Request
from latentrt.runtime.call.result import OutputType, Timings
from latentrt.runtime.call.tasks.video.clip import Clip
from latentrt.runtime.call.tasks.video.decoding import FrameDecoder, OnChunk, frame_decoder
from latentrt.runtime.call.tasks.video.result import VideoResult
from latentrt.runtime.prompts.text_encoder import inversions_of
from latentrt.runtime.sampling.noise import Noise
from latentrt.runtime.sampling.run import Interrupt


def draw_videos(pipeline: Any, engines: Engines, call: CheckedCall, begin: float) -> VideoResult:
    """Encodes the pictures, denoises and decodes.

    Args:
        pipeline: what a callback is given.
        engines: the bundle's.
        call: what to draw.
        begin: ``perf_counter`` as the call began.

    Raises:
        RequestError: chunks that the decoder was not compiled for; nothing is drawn.
        NotFiniteError: the U-Net led to numbers that are none.
    """
    request, clip = call.request, call.request.clip
    assert isinstance(clip, Clip)  # every checked call of videos has one; for the type checker
    decoder = None
    if request.delivery.output_type is not OutputType.LATENT:
        decoder = frame_decoder(engines, request, clip)
        request = replace(request, clip=replace(clip, chunk=decoder.longest))
    chunks = 0 if decoder is None else len(decoder.chunks) * request.count
    noise = Noise(request.sampling.seeds, request.latent_shape)
    initial = call.start(engines, noise)
    only = prepared(engines, (), request, initial)
    encoded = perf_counter()
    run = only.run(pipeline, initial, noise, after=chunks)
    for asked in run:
        run.answer(only.denoiser(asked.x, asked.level))
    latents, denoised = run.x, perf_counter()
    check_finite(latents)
    frames = _decoded(decoder, request, latents, chunks)
    end = perf_counter()
    return VideoResult(
        frames=frames,
        fps=clip.fps,
        latents=latents,
        seeds=request.seed_of_each,
        timings=Timings(
            encode_prompt=0.0,
            encode_image=encoded - begin,
            denoise=denoised - encoded,
            calls=tuple(run.seconds),
            unet_calls=only.denoiser.engine_calls,
            decode=end - denoised,
            total=end - begin,
        ),
        metadata=request.metadata(inversions_of(())),
        interrupted=run.interrupted,
    )


def _decoded(decoder: FrameDecoder | None, request: Request, latents: Array, chunks: int) -> Any:
    """The frames; none where latents are wanted."""
    if decoder is None:
        return []
    return decoder.frames(latents, request.delivery.output_type, _told(request, latents, chunks))


def _told(request: Request, latents: Array, chunks: int) -> OnChunk:
    """Tells of every chunk whoever is told of model calls; those count as done, also where the run ended before."""
    delivery, before = request.delivery, len(request.sampling.levels)

    def on_chunk(done: int) -> None:
        # What a run that was interrupted has led to is decoded to its end
        if delivery.watcher is not None:
            with suppress(Interrupt):
                delivery.watcher(before + done, before + chunks, latents)
        if delivery.progress is not None:
            with suppress(Interrupt):
                delivery.progress(before + done, before + chunks)

    return on_chunk


def steps_of_videos(call: CheckedCall) -> int:
    """How many model calls and decoded chunks it takes, as far as the call says it."""
    request, clip = call.request, call.request.clip
    assert clip is not None
    chunks = -(-clip.frames // clip.decoded_at_once) * request.count
    latents = request.delivery.output_type is OutputType.LATENT
    return len(request.sampling.levels) + (0 if latents else chunks)
