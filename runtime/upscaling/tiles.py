"""A picture through an upscaler, one tile after the other.

Beside the picture and the result, memory is that of one tile. Tiles overlap, and of each the middle is taken: a network
that sees a margin of what lies beyond draws the same as one that sees all, as far as an eye can tell (docs/upscaling.md
has the figures).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from latentrt.engines.engine import Engine
from latentrt.engines.errors import EngineError
from latentrt.engines.shapes import Profile
from latentrt.engines.spec import Array

MARGIN = 16
"""Pixels of a tile's sides that are left out of the result where another tile goes on."""


@dataclass(frozen=True, kw_only=True)
class Cut:
    """One tile along one axis: what the network sees, and the part of that which counts, in pixels of the picture."""

    start: int
    stop: int
    first: int
    last: int


def cuts(length: int, tile: int, *, margin: int = MARGIN, multiple: int = 1) -> list[Cut]:
    """The tiles along an axis: as few as cover it, of one size, and their own parts one behind the other.

    Args:
        length: of the axis.
        tile: the length of a tile; of a shorter axis there is one tile, as long as the axis.
        margin: how far the network sees beyond a tile's own part, at least; less in tiles that would have none left.
        multiple: what tiles begin at multiples of, so that a network that takes blocks of pixels meets the same ones;
            the last tile may then end beyond the axis, and is cut short.
    """
    if length <= tile:
        return [Cut(start=0, stop=length, first=0, last=length)]
    shared = min(2 * margin + multiple - 1, tile - multiple)  # pixels that two tiles have both
    count = 1 - (length - tile) // (shared - tile)
    starts = [-(-index * (length - tile) // (count - 1) // multiple) * multiple for index in range(count)]
    stops = [min(start + tile, length) for start in starts]
    edges = [0, *((stop + start) // 2 for stop, start in zip(stops, starts[1:], strict=False)), length]
    return [
        Cut(start=start, stop=stop, first=first, last=last)
        for start, stop, first, last in zip(starts, stops, edges, edges[1:], strict=False)
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
    """

    engine_at: Callable[[int, int], Engine]
    source: str
    result: str
    scale: int
    sizes: Sequence[Profile]
    multiple: int = 1
    smallest: int = 1

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
        rows, columns = self._cuts(*picture.shape[:2])
        for y in rows:
            for x in columns:
                window = self._enlarged(picture[y.start : y.stop, x.start : x.stop])
                part = window[self._inside(y), self._inside(x)]
                place = result[self._in_result(y), self._in_result(x)]
                place[...] = np.rint(part * np.float32(255.0)) if result.dtype == np.uint8 else part
                yield

    def _enlarged(self, window: Array) -> Array:
        """One tile (h, w, 3) as (h · scale, w · scale, 3) float32 in [0, 1]; what it lacks is mirrored."""
        height, width = window.shape[:2]
        engine = self.engine_at(self._side(width), self._side(height))
        _, _, rows, columns = engine.spec.inputs[self.source].sized(1)
        floats = window.astype(np.float32)
        if window.dtype == np.uint8:
            floats /= np.float32(255.0)
        mirrored = np.pad(floats, [(0, rows - height), (0, columns - width), (0, 0)], mode="reflect")
        batch = np.repeat(mirrored.transpose(2, 0, 1)[None], engine.spec.batches[0], axis=0)
        enlarged = engine.run({self.source: batch})[self.result][0]
        part = enlarged[:, : height * self.scale, : width * self.scale]
        _check_finite(part)
        return np.asarray(np.clip(part, 0.0, 1.0).transpose(1, 2, 0))

    def _cuts(self, height: int, width: int) -> tuple[list[Cut], list[Cut]]:
        """Rows and columns of tiles of the size that takes the least work for a picture."""

        def grid(size: Profile) -> tuple[list[Cut], list[Cut]]:
            rows = cuts(height, size.height, multiple=self.multiple)
            return rows, cuts(width, size.width, multiple=self.multiple)

        def work(size: Profile) -> int:
            rows, columns = grid(size)
            return len(rows) * len(columns) * min(size.height, height) * min(size.width, width)

        return grid(min(self.sizes, key=work))

    def _side(self, length: int) -> int:
        """The nearest side that the network takes."""
        return -(-max(length, self.smallest) // self.multiple) * self.multiple

    def _inside(self, cut: Cut) -> slice:
        """Where a tile's own part lies in its result."""
        return slice((cut.first - cut.start) * self.scale, (cut.last - cut.start) * self.scale)

    def _in_result(self, cut: Cut) -> slice:
        return slice(cut.first * self.scale, cut.last * self.scale)


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
