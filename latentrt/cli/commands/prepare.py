"""``latentrt prepare MAP``: a command for each control picture that needs no network."""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from latentrt.cli.preparing import ARRAYS, Preparation, prepares

prepare = typer.Typer(
    help="Make control pictures that need no network: edges, tiles, palettes and more.", no_args_is_help=True
)


@prepare.command()
@prepares
def canny(
    preparation: Preparation,
    low: Annotated[
        float, typer.Option("--low", help="Edges go on where the brightness changes by more than this, 0 to 1530.")
    ] = 100.0,
    high: Annotated[
        float,
        typer.Option(
            "--high", help="Edges begin where it changes by more than this; black straight beside white is 1020."
        ),
    ] = 200.0,
) -> None:
    """Edges, white on black (needs OpenCV)."""
    from latentrt.runtime.pictures.prepare import canny

    preparation.write("canny", partial(canny, low=low, high=high))


@prepare.command()
@prepares
def tile(
    preparation: Preparation,
    downscale: Annotated[
        float, typer.Option("--downscale", help="Shrink by this factor, 1 to 64, and enlarge again: drops details.")
    ] = 1.0,
    blur: Annotated[
        float, typer.Option("--blur", help="Standard deviation of a blur in pixels, 0 to 256 (needs OpenCV).")
    ] = 0.0,
) -> None:
    """The picture in multiples of 64 pixels, for nets that redraw its details."""
    from latentrt.runtime.pictures.prepare import tile

    preparation.write("tile", partial(tile, downscale=downscale, blur=blur))


@prepare.command()
@prepares
def inpaint(
    preparation: Preparation,
    mask: Annotated[Path, typer.Option("--mask", help="Picture of the same size: white is redrawn, black is kept.")],
) -> None:
    """The picture with −1 where it is redrawn, as an array (.npy): no picture file holds −1."""
    from latentrt.runtime.pictures.image import read_image
    from latentrt.runtime.pictures.prepare import inpaint

    preparation.write("inpaint", partial(inpaint, mask=read_image(mask)), suffix=ARRAYS, others=[mask])


@prepare.command()
@prepares
def palette(
    preparation: Preparation,
    cells: Annotated[int, typer.Option("--cells", help="Fields on each side, 1 to 512.")] = 8,
) -> None:
    """The colours in 8 x 8 plain fields, for T2I-Adapter's colour."""
    from latentrt.runtime.pictures.prepare import palette

    preparation.write("palette", partial(palette, cells=cells))


@prepare.command()
@prepares
def blur(
    preparation: Preparation,
    sigma: Annotated[float, typer.Option("--sigma", help="Standard deviation in pixels, above 0 and up to 256.")] = 9.0,
) -> None:
    """The picture under a Gaussian blur (needs OpenCV)."""
    from latentrt.runtime.pictures.prepare import blur

    preparation.write("blur", partial(blur, sigma=sigma))


@prepare.command()
@prepares
def threshold(
    preparation: Preparation,
    level: Annotated[
        int, typer.Option("--level", help="White is what has red, green and blue above this, 0 to 255.")
    ] = 127,
) -> None:
    """White and black alone."""
    from latentrt.runtime.pictures.prepare import threshold

    preparation.write("threshold", partial(threshold, level=level))


@prepare.command()
@prepares
def invert(preparation: Preparation) -> None:
    """The negative: a drawing in black on white becomes white on black."""
    from latentrt.runtime.pictures.prepare import invert

    preparation.write("invert", invert)


@prepare.command()
@prepares
def shuffle(
    preparation: Preparation,
    scale: Annotated[
        int, typer.Option("--scale", help="Pixels between the points at which the flow turns, 1 to 1024.")
    ] = 256,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the flow, 0 to 2^32 − 1.")] = 0,
) -> None:
    """The colours, flowing about at random, for the shuffle net (needs OpenCV)."""
    from latentrt.runtime.pictures.prepare import shuffle

    preparation.write("shuffle", partial(shuffle, scale=scale, seed=seed))
