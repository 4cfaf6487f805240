"""What tiles cost an upscaler's pictures: two tiles with margins of several widths, against the picture as one piece.

``python -m latentrt.benchmarks.studies.upscaler_tiles BUNDLE`` prints the table of ``docs/upscaling.md``.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np

from latentrt.cli.terminal import print_table
from latentrt.engines.bundle.checks.parity import psnr
from latentrt.engines.bundle.checks.photograph import photograph
from latentrt.engines.precision import Backend
from latentrt.engines.shapes import Profile
from latentrt.engines.spec import Array
from latentrt.opening import open_upscaler
from latentrt.runtime.upscaling.tiles import TileSource, cuts

MARGINS = (8, 10, 16, 24, 32)
_SCALE = 255.0  # levels of a colour


def main() -> None:
    """Reads the arguments, measures, prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path, help="an upscaler's, with an engine for ort-cpu")
    parser.add_argument("--tile", type=int, default=128, help="side of a tile in pixels, a multiple of 8")
    arguments = parser.parse_args()
    with open_upscaler(arguments.bundle, backend=Backend.ORT_CPU) as upscaler:
        rows = [(margin, *_measured(upscaler.tiles, arguments.tile, margin)) for margin in MARGINS]
    columns = ("margin", "PSNR dB", "largest difference", "step at the edge", "step in the picture")
    print_table(f"{upscaler.name}, tiles of {arguments.tile}; differences and steps in levels of 255", columns, rows)


def _measured(tiles: TileSource, tile: int, margin: int) -> tuple[float, float, float, float]:
    """PSNR, the largest difference, and how much colours step at the edge of the tiles beyond what they step by."""
    width = 2 * (tile - margin)
    picture = np.asarray(photograph(Profile(width=2 * width, height=2 * tile)), np.float32)[tile // 2 :, width // 2 :]
    picture = np.ascontiguousarray(picture[:tile, :width]) / np.float32(_SCALE)
    whole = _enlarged(replace(tiles, sizes=(Profile(width=width, height=tile),)), picture)
    tiled = _enlarged(replace(tiles, sizes=(Profile(width=tile, height=tile),), margin=margin), picture)
    edge = cuts(width, tile, margin=margin)[0].last * tiles.scale

    def step(pixels: Array) -> Array:
        return np.asarray(_SCALE * (pixels[:, edge] - pixels[:, edge - 1]))

    figures = (
        psnr(tiled, whole, peak=1.0),
        _SCALE * float(np.abs(tiled - whole).max()),
        float(np.abs(step(tiled) - step(whole)).mean()),
        float(np.abs(step(whole)).mean()),
    )
    return round(figures[0], 1), round(figures[1], 1), round(figures[2], 2), round(figures[3], 2)


def _enlarged(tiles: TileSource, picture: Array) -> Array:
    height, width = picture.shape[:2]
    result = np.empty((height * tiles.scale, width * tiles.scale, 3), np.float32)
    for _ in tiles.run(picture, result):
        pass
    return result


if __name__ == "__main__":
    main()
