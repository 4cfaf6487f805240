"""The autoencoder with less memory: one sample at a time, or one tile at a time.

Each way is an ``Engine`` around engines, so that whoever encodes or decodes does not need to know.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np

from latentrt.engines.batches import in_batches
from latentrt.engines.bundle.records.latent_space import LatentSpace
from latentrt.engines.bundle.records.seamless import Seamless
from latentrt.engines.choices import choice
from latentrt.engines.engine import ClosesItself, Engine
from latentrt.engines.errors import RequestError
from latentrt.engines.shapes import Profile, Shapes
from latentrt.engines.spec import Array, EngineSpec, Tensor, host_arrays
from latentrt.engines.store.components import Engines

# Tiles overlap by a quarter of their size, as in diffusers; a build makes them a multiple of four latents
_OVERLAP = 4


class VaeMode(StrEnum):
    """How pictures go through the autoencoder: as many as the engine takes, one by one, or in tiles."""

    WHOLE = "whole"
    SLICED = "sliced"
    TILED = "tiled"


def vae_engine(components: Engines, component: str, profile: Profile, mode: str | VaeMode) -> Engine:
    """The VAE encoder or decoder at a profile, in the way wanted; give it to the functions of ``autoencoder``.

    Args:
        components: the opened bundle.
        component: ``"vae_encoder"`` or ``"vae_decoder"``.
        profile: the picture's size.
        mode: with ``TILED``, pictures that are no larger than a tile go through one by one.

    Raises:
        RequestError: an unknown mode, or tiles of a bundle that was built seamless.
    """
    mode = choice(VaeMode, mode, "VAE mode")
    manifest = components.bundle.manifest
    if mode is VaeMode.WHOLE:
        return components.engine(component, Shapes(profile=profile))
    tile = manifest.latents.tile_pixels
    if mode is VaeMode.SLICED or max(profile.width, profile.height) <= tile:
        return SlicedEngine(components.engine(component, Shapes(profile=profile)))
    if manifest.seamless is not Seamless.NONE:
        raise RequestError(
            f"got VAE mode 'tiled' for a picture of {profile.width}x{profile.height} and a seamless bundle, whose "
            f"pictures wrap around, expected one no larger than a tile of {tile} pixels; choose 'whole' or 'sliced'"
        )

    def at_size(width: int, height: int) -> Engine:
        return components.engine(component, Shapes(profile=Profile(width=width, height=height)))

    return TiledEngine(manifest.spec(component, Shapes(profile=profile), (1,)), at_size, manifest.latents)


class SlicedEngine(ClosesItself):
    """An engine in its smallest batch."""

    def __init__(self, engine: Engine) -> None:
        """Wraps an engine; closing closes it."""
        self._engine = engine
        self.spec: EngineSpec = replace(engine.spec, batches=engine.spec.batches[:1])

    def run(self, inputs: Mapping[str, Tensor]) -> dict[str, Array]:
        """Runs the engine."""
        return self._engine.run(inputs)

    def close(self) -> None:
        """Closes the engine."""
        self._engine.close()


@dataclass(frozen=True, kw_only=True)
class _Cut:
    """One tile along one axis, in units of the input."""

    start: int
    stop: int

    @property
    def length(self) -> int:
        """How much of the axis it covers; the last ones are shorter."""
        return self.stop - self.start


class TiledEngine(ClosesItself):
    """One half of the autoencoder over overlapping tiles, blended where they overlap: diffusers' tiling.

    Of a finished tile only the strips that its neighbours blend with are kept, and every sample goes alone, so
    memory beyond the result is that of one tile.
    """

    def __init__(self, spec: EngineSpec, engine_at: Callable[[int, int], Engine], space: LatentSpace) -> None:
        """Takes the engines' source; they are asked for tile by tile.

        Args:
            spec: of the whole picture, with one input, one output, and 1 as the only batch.
            engine_at: an engine for pictures of (width, height) pixels, at most a tile's size. It may be one for
                larger pictures where a backend has only certain sizes: then the tile reaches further into the
                picture, or where the picture ends repeats its edge, and what is too much is cut from the result.
            space: a tile's size and the factor between pixels and latents.
        """
        self.spec = spec
        self._engine_at = engine_at
        (self._source, source), (self._result, result) = *spec.inputs.items(), *spec.outputs.items()
        self._shape = result.sized(1)
        pixels, latents = space.tile_pixels, space.tile_size[0]
        encodes = source.sized(1)[3] > self._shape[3]
        self._tile, self._result_tile = (pixels, latents) if encodes else (latents, pixels)
        self._pixels = pixels // self._tile  # per unit of the input

    def run(self, inputs: Mapping[str, Tensor]) -> dict[str, Array]:
        """Runs the tiles of one sample, row by row; the array that comes back is new."""
        self.spec.check(inputs)
        array = host_arrays(inputs)[self._source]
        whole = np.empty(self._shape, array.dtype)
        extent = self._result_tile // _OVERLAP
        kept = self._result_tile - extent
        above: list[Array] = []
        for row, y in enumerate(self._cuts(array.shape[2])):
            bottoms, right = [], None
            for column, x in enumerate(self._cuts(array.shape[3])):
                tile = self._run_tile(array, y, x)
                if above:
                    _blend(above[column], tile, axis=2)
                if right is not None:
                    _blend(right, tile, axis=3)
                bottoms.append(tile[:, :, -extent:].copy())  # a view would keep the whole tile
                right = tile[:, :, :, -extent:].copy()
                place = whole[:, :, row * kept : (row + 1) * kept, column * kept : (column + 1) * kept]
                place[...] = tile[:, :, : place.shape[2], : place.shape[3]]
            above = bottoms
        return {self._result: whole}

    def close(self) -> None:
        """Holds nothing of its own."""

    def _cuts(self, length: int) -> list[_Cut]:
        step = self._tile - self._tile // _OVERLAP
        return [_Cut(start=at, stop=min(at + self._tile, length)) for at in range(0, length, step)]

    def _run_tile(self, array: Array, y: _Cut, x: _Cut) -> Array:
        """The engine's result for one tile."""
        engine = self._engine_at(x.length * self._pixels, y.length * self._pixels)
        _, _, height, width = engine.spec.inputs[self._source].sized(1)
        top, left = max(min(y.start, array.shape[2] - height), 0), max(min(x.start, array.shape[3] - width), 0)
        window = array[:, :, top : top + height, left : left + width]
        missing = [(0, 0), (0, 0), (0, height - window.shape[2]), (0, width - window.shape[3])]
        result = in_batches(engine, self._source, np.pad(window, missing, mode="edge"), self._result)
        rows, columns = self._in_result(y, top), self._in_result(x, left)
        return result[:, :, rows, columns]

    def _in_result(self, cut: _Cut, start: int) -> slice:
        """Where a tile lies in the result of an engine that began at ``start``."""
        first, last = cut.start - start, cut.stop - start
        return slice(first * self._result_tile // self._tile, last * self._result_tile // self._tile)


def _blend(before: Array, tile: Array, *, axis: int) -> None:
    """Fades from the last lines of the tile before, of which no others are given, to a tile's first, in place."""
    extent = min(before.shape[axis], tile.shape[axis])
    share = np.arange(extent, dtype=np.float32) / np.float32(extent)
    share = share[:, None] if axis == 2 else share
    last = before[:, :, -extent:] if axis == 2 else before[..., -extent:]
    first = tile[:, :, :extent] if axis == 2 else tile[..., :extent]
    first[...] = last * (1 - share) + first * share
