"""A picture through an upscaler, one tile after the other.

Beside the picture and the result, memory is that of one tile. Tiles overlap: a network sees a margin of what lies
beyond the part that is taken, and where two parts meet, one fades into the other.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from latentrt.engines.engine import Engine
from latentrt.engines.errors import EngineError
from latentrt.engines.shapes import Profile
from latentrt.engines.spec import Array

MARGIN = 24
"""Pixels that a network sees beyond the part of a tile that is taken.

Of Real-ESRGAN's x4plus, the largest of the usual networks, steps between pixels at the edge of a part are off by two
thirds of such a step in a photograph with a margin of 10, and by a third with this one (docs/upscaling.md).
"""


@dataclass(frozen=True, kw_only=True)
class Cut:
    """One tile along one axis, in pixels of the picture.

    Attributes:
        start: where what the network sees begins.
        stop: where it ends.
        first: where the part begins that is taken; before it, it fades in.
        last: where it ends.
        fades_in: pixels before and behind ``first`` over which the tile before turns into this one.
        fades_out: the same around ``last``.
    """

    start: int
    stop: int
    first: int
    last: int
    fades_in: int = 0
    fades_out: int = 0

    @property
    def begin(self) -> int:
        """Where the part with its fading begins."""
        return self.first - self.fades_in

    @property
    def end(self) -> int:
        """Where it ends."""
        return self.last + self.fades_out


def cuts(length: int, tile: int, *, margin: int = MARGIN, multiple: int = 1) -> list[Cut]:
    """The tiles along an axis: as few as cover it, of one size, and the parts that are taken one behind the other.

    Args:
        length: of the axis.
        tile: the length of a tile; of a shorter axis there is one tile, as long as the axis.
        margin: how far the network sees beyond the part that is taken, at least; of small tiles at most a quarter, so
            that half is left. Parts fade over half of it on either side.
        multiple: what tiles begin at multiples of, so that a network that takes blocks of pixels meets the same ones;
            the last tile may then end beyond the axis, and is cut short.
    """
    if length <= tile:
        return [Cut(start=0, stop=length, first=0, last=length)]
    margin = min(margin, tile // 4)
    shared = min(2 * margin + multiple - 1, tile - multiple)  # pixels that two tiles have both
    count = 1 - (length - tile) // (shared - tile)
    starts = [-(-index * (length - tile) // (count - 1) // multiple) * multiple for index in range(count)]
    stops = [min(start + tile, length) for start in starts]
    edges = [0, *((stop + start) // 2 for stop, start in zip(stops, starts[1:], strict=False)), length]
    room = [(edge - start, stop - edge) for start, edge, stop in zip(starts[1:], edges[1:], stops, strict=False)]
    fade = min(margin // 2, *(min(pair) for pair in room), *((last - first) // 2 for first, last in pairwise(edges)))
    return [
        Cut(
            start=start,
            stop=stop,
            first=first,
            last=last,
            fades_in=fade if first else 0,
            fades_out=fade if last < length else 0,
        )
        for start, stop, (first, last) in zip(starts, stops, pairwise(edges), strict=True)
    ]


@dataclass(frozen=True, kw_only=True)
class TileSource:
    """What runs tiles, and which it takes.

    Attributes:
        engine_at: an engine for tiles of (width, height) pixels, or larger ones where a backend has only certain sizes.
        source: the name of its input (1, 3, h, w) in [0, 1].
        result: the name of its output (1, 3, h · scale, w · scale).
        scale: how many pixels a side of one becomes.
        sizes: of tiles, the first being preferred where several take as much work.
        multiple: what the sides of tiles must be multiples of.
        smallest: the shortest side of a tile.
        margin: as ``cuts`` takes it.
    """

    engine_at: Callable[[int, int], Engine]
    source: str
    result: str
    scale: int
    sizes: Sequence[Profile]
    multiple: int = 1
    smallest: int = 1
    margin: int = MARGIN

    def count(self, height: int, width: int) -> int:
        """How many tiles a picture takes."""
        rows, columns = self._cuts(height, width)
        return len(rows) * len(columns)

    def run(self, picture: Array, result: Array) -> Iterator[None]:
        """Enlarges a picture; yields behind each tile.

        Args:
            picture: (H, W, 3), floats in [0, 1] or uint8.
            result: (H · scale, W · scale, 3) of either type, which is filled.

        Raises:
            EngineError: the network returned NaN or infinity, or cannot run.
        """
        scale = self.scale
        rows, columns = self._cuts(*picture.shape[:2])
        for y in rows:
            before: Array | None = None  # the last columns of the tile before
            for x in columns:
                window = self._enlarged(picture[y.start : y.stop, x.start : x.stop])
                seen = _scaled(x.begin - x.start, x.end - x.start, scale)
                part = window[_scaled(y.begin - y.start, y.end - y.start, scale), seen]
                if before is not None:
                    _fade(before, part[:, : before.shape[1]], axis=1)
                ready = (x.end - x.begin - 2 * x.fades_out) * scale
                before = part[:, ready:].copy() if x.fades_out else None  # a view would keep the whole tile
                place = result[_scaled(y.begin, y.end, scale), _scaled(x.begin, x.last - x.fades_out, scale)]
                above = 2 * y.fades_in * scale  # rows that the tiles above have written
                _fade(_floats(place[:above]), part[:above, :ready], axis=0)
                place[...] = _stored(part[:, :ready], result.dtype)
                yield

    def _enlarged(self, window: Array) -> Array:
        """One tile (h, w, 3) as (h · scale, w · scale, 3) float32 in [0, 1]; what it lacks is mirrored."""
        height, width = window.shape[:2]
        engine = self.engine_at(self._side(width), self._side(height))
        _, _, rows, columns = engine.spec.inputs[self.source].sized(1)
        mirrored = np.pad(_floats(window), [(0, rows - height), (0, columns - width), (0, 0)], mode="reflect")
        batch = np.repeat(mirrored.transpose(2, 0, 1)[None], engine.spec.batches[0], axis=0)
        enlarged = engine.run({self.source: batch})[self.result][0]
        part = enlarged[:, : height * self.scale, : width * self.scale]
        _check_finite(part)
        return np.asarray(np.clip(part, 0.0, 1.0).transpose(1, 2, 0))

    def _cuts(self, height: int, width: int) -> tuple[list[Cut], list[Cut]]:
        """Rows and columns of tiles of the size that takes the least work for a picture."""

        def grid(size: Profile) -> tuple[list[Cut], list[Cut]]:
            rows = cuts(height, size.height, margin=self.margin, multiple=self.multiple)
            return rows, cuts(width, size.width, margin=self.margin, multiple=self.multiple)

        def work(size: Profile) -> int:
            rows, columns = grid(size)
            return len(rows) * len(columns) * min(size.height, height) * min(size.width, width)

        return grid(min(self.sizes, key=work))

    def _side(self, length: int) -> int:
        """The nearest side that the network takes."""
        return -(-max(length, self.smallest) // self.multiple) * self.multiple


def _scaled(begin: int, end: int, scale: int) -> slice:
    return slice(begin * scale, end * scale)


def _floats(pixels: Array) -> Array:
    """uint8 as float32 in [0, 1]; floats as they are."""
    return pixels.astype(np.float32) / np.float32(255.0) if pixels.dtype == np.uint8 else pixels


def _stored(pixels: Array, dtype: np.dtype[Any]) -> Array:
    """Floats as a result of the type has them."""
    return np.rint(pixels * np.float32(255.0)).astype(np.uint8) if dtype == np.uint8 else pixels


def _fade(old: Array, new: Array, *, axis: int) -> None:
    """Lets one strip turn into another of the same shape along an axis, in place of the new one."""
    count = old.shape[axis]
    share = (np.arange(count, dtype=np.float32) + np.float32(0.5)) / np.float32(max(count, 1))
    new[...] = old + (share[None, :, None] if axis else share[:, None, None]) * (new - old)


def _check_finite(pixels: Array) -> None:
    """Refuses a result that is no picture.

    Raises:
        EngineError: NaN or infinity.
    """
    if not np.isfinite(pixels).all():
        raise EngineError(
            "the upscaler returned NaN or infinity, expected finite pixels; build it again in fp32, or check it with "
            "latentrt verify"
        )
