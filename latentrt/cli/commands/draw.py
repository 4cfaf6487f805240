"""``latentrt generate``, ``img2img``, ``inpaint`` and ``outpaint``."""

from pathlib import Path
from typing import Annotated

import typer

from latentrt.cli.commands.arguments import Bundle, Prompt
from latentrt.cli.drawing import Drawing, draws, read_start

Image = Annotated[Path, typer.Option("--image", help="The picture to start from.")]


@draws
def generate(bundle: Bundle, prompt: Prompt, drawing: Drawing) -> None:
    """Draw pictures from text."""
    with drawing.opened(bundle) as (pipe, options):
        drawing.report(pipe([prompt] * drawing.count, **options))


@draws
def img2img(
    bundle: Bundle,
    prompt: Prompt,
    image: Annotated[Path, typer.Option("--image", help="The picture to start from, or a run's latents (.npy).")],
    drawing: Drawing,
    strength: Annotated[
        float | None,
        typer.Option("--strength", help="0 keeps the picture, 1 redraws it; the bundle's default if left out."),
    ] = None,
    denoising_start: Annotated[
        float | None,
        typer.Option("--denoising-start", help="Continue latents from where a run's --denoising-end stopped."),
    ] = None,
) -> None:
    """Draw pictures that start from a picture; --size resizes it first."""
    picture = read_start(image)
    with drawing.opened(bundle) as (pipe, options):
        options["denoising_start"] = denoising_start
        drawing.report(pipe.img2img([prompt] * drawing.count, image=picture, strength=strength, **options))


@draws
def inpaint(
    bundle: Bundle,
    prompt: Prompt,
    image: Image,
    mask: Annotated[Path, typer.Option("--mask", help="Picture of the same size: white is redrawn, black is kept.")],
    drawing: Drawing,
    strength: Annotated[
        float | None, typer.Option("--strength", help="1 redraws from pure noise, less from the picture.")
    ] = None,
    padding_mask_crop: Annotated[
        int | None,
        typer.Option("--padding-mask-crop", help="Draw only a crop around the mask, with a margin of so many pixels."),
    ] = None,
    kept_pixels: Annotated[
        str,
        typer.Option("--kept-pixels", help="Outside of the mask: exact (the picture's own pixels) or decoded."),
    ] = "exact",
) -> None:
    """Redraw the masked part of a picture."""
    from latentrt.runtime.pictures.image import read_image

    picture, masked = read_image(image), read_image(mask)
    with drawing.opened(bundle) as (pipe, options):
        result = pipe.inpaint(
            [prompt] * drawing.count,
            image=picture,
            mask_image=masked,
            strength=strength,
            padding_mask_crop=padding_mask_crop,
            kept_pixels=kept_pixels,
            **options,
        )
        drawing.report(result)


@draws
def outpaint(
    bundle: Bundle,
    prompt: Prompt,
    image: Image,
    drawing: Drawing,
    left: Annotated[int, typer.Option("--left", help="Pixels to add on the left.")] = 0,
    top: Annotated[int, typer.Option("--top", help="Pixels to add at the top.")] = 0,
    right: Annotated[int, typer.Option("--right", help="Pixels to add on the right.")] = 0,
    bottom: Annotated[int, typer.Option("--bottom", help="Pixels to add at the bottom.")] = 0,
    overlap: Annotated[
        int, typer.Option("--overlap", help="Pixels of the picture to redraw along the new sides, fading into it.")
    ] = 0,
    strength: Annotated[
        float | None, typer.Option("--strength", help="1 draws from pure noise, less from the picture's edges.")
    ] = None,
) -> None:
    """Extend a picture beyond its edges."""
    from latentrt.runtime.pictures.image import read_image

    picture = read_image(image)
    with drawing.opened(bundle) as (pipe, options):
        result = pipe.outpaint(
            [prompt] * drawing.count,
            image=picture,
            left=left,
            top=top,
            right=right,
            bottom=bottom,
            overlap=overlap,
            strength=strength,
            **options,
        )
        drawing.report(result)
