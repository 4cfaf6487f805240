"""The frames of videos, decoded some at a time: what is held beside the result is the pixels of one chunk."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from latentrt.engines.bundle.kinds import VAE_DECODER
from latentrt.engines.bundle.records.latent_space import LatentSpace
from latentrt.engines.engine import Engine
from latentrt.engines.errors import EngineError, RequestError
from latentrt.engines.shapes import Shapes
from latentrt.engines.spec import Array
from latentrt.engines.store.components import Engines
from latentrt.runtime.call.request import Request
from latentrt.runtime.call.result import OutputType
from latentrt.runtime.call.tasks.video.clip import Clip
from latentrt.runtime.pictures.autoencoder import pixels_from_output
from latentrt.runtime.pictures.image import images_from_pixels

OnChunk = Callable[[int], None]
"""Told how many chunks are decoded."""


@dataclass(frozen=True, kw_only=True, eq=False)
class FrameDecoder:
    """A temporal decoder, and the chunks that it takes a video in. Frames of one chunk act on each other.

    Attributes:
        engine: it.
        space: the latents' scale.
        chunks: frames of each call for one video, in order.
    """

    engine: Engine
    space: LatentSpace
    chunks: tuple[slice, ...]

    @property
    def longest(self) -> int:
        """Frames of the first chunk; none is longer."""
        return int(self.chunks[0].stop)

    def frames(
        self, latents: Array, output_type: OutputType, on_chunk: OnChunk
    ) -> list[list[Image.Image]] | list[Array]:
        """The videos of latents (N, F, C, h, w): lists of pictures, or arrays (F, H, W, 3) float32 in [0, 1].

        Raises:
            EngineError: the decoder returned NaN or infinity.
        """
        frames: list[Any] = []
        done = 0
        for video in latents:
            frames.append([])
            for chunk in self.chunks:
                # nothing keeps a chunk's pixels: they become 8 bits before the next ones are decoded
                frames[-1] += self._finished(video[chunk], output_type)
                done += 1
                on_chunk(done)
        return [np.stack(video) for video in frames] if output_type is OutputType.NUMPY else frames

    def _finished(self, latents: Array, output_type: OutputType) -> list[Array] | list[Image.Image]:
        """One chunk (n, C, h, w), decoded, in the form wanted."""
        pixels = pixels_from_output(self.engine.run({"latent_sample": self.space.unscaled(latents)})["sample"])
        return list(pixels) if output_type is OutputType.NUMPY else images_from_pixels(pixels)


def frame_decoder(engines: Engines, request: Request, clip: Clip) -> FrameDecoder:
    """The decoder, opened, with the chunks that the call asks for.

    Raises:
        RequestError: chunks that the engine was not compiled for.
    """
    engine = engines.engine(VAE_DECODER, Shapes(profile=request.canvas.profile))
    sizes = engine.spec.batches
    if clip.chunk is None:
        whole = [size for size in sizes if size <= clip.frames and _fits(clip.frames, size, sizes)]
        if not whole:
            raise EngineError(
                f"the decoder takes {_listed(sizes)} frames at once, of which no video of {clip.frames} can be made; "
                "build the bundle again"
            )
        chunk = whole[-1]
    else:
        chunk = clip.decoded_at_once
        if not _fits(clip.frames, chunk, sizes):
            able = [size for size in range(1, clip.frames + 1) if _fits(clip.frames, size, sizes)]
            raise RequestError(
                f"got decode_chunk_size {chunk} for {clip.frames} frames, expected {_listed(able)}, for which the "
                "decoder was compiled; give one of these, or leave it out"
            )
    starts = range(0, clip.frames, chunk)
    chunks = tuple(slice(start, min(start + chunk, clip.frames)) for start in starts)
    return FrameDecoder(engine=engine, space=engines.bundle.manifest.latents, chunks=chunks)


def _fits(frames: int, chunk: int, sizes: Sequence[int]) -> bool:
    """Whether all chunks of a video have sizes that were compiled: the last one is what the others leave."""
    return chunk in sizes and (frames % chunk == 0 or frames % chunk in sizes)


def _listed(sizes: Sequence[int]) -> str:
    return ", ".join(map(str, sizes))
