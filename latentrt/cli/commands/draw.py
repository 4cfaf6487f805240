"""``latentrt generate``, ``img2img``, ``inpaint``, ``outpaint``, ``edit`` and ``detail``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from latentrt.cli.commands.arguments import Bundle
from latentrt.cli.drawing.drawing import Drawing, draws, draws_as, read_start
from latentrt.cli.drawing.text_drawing import TextDrawing
from latentrt.engines.errors import RequestError

if TYPE_CHECKING:
    from latentrt.cli.drawing.batches import Batch

Prompt = Annotated[
    str | None, typer.Argument(metavar="PROMPT", help="What to draw; - draws the lines of standard input.")
]
Image = Annotated[Path, typer.Option("--image", help="The picture to start from.")]


@draws_as(TextDrawing)
def generate(bundle: Bundle, drawing: TextDrawing, prompt: Prompt = None) -> None:
    """Draw pictures from text."""
    drawing.draw(bundle, prompt, lambda pipe, batch, options: pipe(batch.prompts, **options))


@draws
def img2img(
    bundle: Bundle,
    image: Annotated[Path, typer.Option("--image", help="The picture to start from, or a run's latents (.npy).")],
    drawing: Drawing,
    prompt: Prompt = None,
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
    start = read_start(image)
    latents = getattr(start, "ndim", 0) == 4

    def call(pipe: Any, batch: "Batch", options: dict[str, Any]) -> Any:
        if latents and len(start) not in (1, batch.total):
            raise RequestError(
                f"got the latents of {len(start)} pictures for {batch.total}, expected those of one, or of each; use "
                f"--count {len(start)}"
            )
        given = batch.of(start) if latents else start
        return pipe.img2img(batch.prompts, image=given, strength=strength, denoising_start=denoising_start, **options)

    def size(pipe: Any) -> tuple[int, int]:
        return pipe.manifest.latents.pixel_size(start) if latents else getattr(start, "size", (0, 0))

    drawing.draw(bundle, prompt, call, size=size)


@draws
def inpaint(
    bundle: Bundle,
    image: Image,
    mask: Annotated[Path, typer.Option("--mask", help="Picture of the same size: white is redrawn, black is kept.")],
    drawing: Drawing,
    prompt: Prompt = None,
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
    masked_content: Annotated[
        str,
        typer.Option(
            "--masked-content",
            help="What a strength below 1 starts from in the mask: original, fill, noise or nothing.",
        ),
    ] = "original",
) -> None:
    """Redraw the masked part of a picture."""
    from latentrt.runtime.pictures.image import read_image

    picture, masked = read_image(image), read_image(mask)

    def call(pipe: Any, batch: "Batch", options: dict[str, Any]) -> Any:
        return pipe.inpaint(
            batch.prompts,
            image=picture,
            mask_image=masked,
            strength=strength,
            padding_mask_crop=padding_mask_crop,
            kept_pixels=kept_pixels,
            masked_content=masked_content,
            **options,
        )

    drawing.draw(bundle, prompt, call, size=None if padding_mask_crop is not None else lambda _: picture.size)


@draws
def outpaint(
    bundle: Bundle,
    image: Image,
    drawing: Drawing,
    prompt: Prompt = None,
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

    def call(pipe: Any, batch: "Batch", options: dict[str, Any]) -> Any:
        return pipe.outpaint(
            batch.prompts,
            image=picture,
            left=left,
            top=top,
            right=right,
            bottom=bottom,
            overlap=overlap,
            strength=strength,
            **options,
        )

    drawing.draw(bundle, prompt, call, size=lambda _: (picture.width + left + right, picture.height + top + bottom))


@draws
def edit(
    bundle: Bundle,
    image: Annotated[Path, typer.Option("--image", help="The picture to edit.")],
    drawing: Drawing,
    prompt: Prompt = None,
    image_guidance: Annotated[
        float | None,
        typer.Option("--image-guidance", help="How closely the picture is kept, 1 or more; default: 1.5."),
    ] = None,
) -> None:
    """Change a picture as PROMPT says, such as "make it snow" (InstructPix2Pix); --size resizes it first."""
    from latentrt.runtime.pictures.image import read_image

    picture = read_image(image)

    def call(pipe: Any, batch: "Batch", options: dict[str, Any]) -> Any:
        return pipe.edit(batch.prompts, image=picture, image_guidance_scale=image_guidance, **options)

    drawing.draw(bundle, prompt, call, size=lambda _: picture.size)


@draws
def detail(
    bundle: Bundle,
    image: Annotated[Path, typer.Option("--image", help="The picture, of any size.")],
    drawing: Drawing,
    prompt: Prompt = None,
    detector: Annotated[
        Path | None,
        typer.Option(
            "--detector", metavar="FILE.onnx", help="Finds the regions: an ONNX file as ultralytics exports YOLO."
        ),
    ] = None,
    confidence: Annotated[
        float | None,
        typer.Option("--confidence", help="What the detector finds less surely, 0 to 1, is left; default: 0.3."),
    ] = None,
    classes: Annotated[
        str | None,
        typer.Option("--classes", help="What to look for, by name or number, with commas between; default: all."),
    ] = None,
    box: Annotated[
        list[str] | None,
        typer.Option("--box", metavar="LEFT,TOP,RIGHT,BOTTOM", help="A region in pixels; repeatable."),
    ] = None,
    mask: Annotated[
        list[Path] | None,
        typer.Option("--mask", help="A region as a picture of the same size, white where it is; repeatable."),
    ] = None,
    strength: Annotated[
        float, typer.Option("--strength", help="0 keeps a region, 1 redraws it from pure noise.")
    ] = 0.4,
    padding: Annotated[
        int, typer.Option("--padding", help="Pixels around a region that are drawn with it, and not kept.")
    ] = 32,
    dilation: Annotated[
        int, typer.Option("--dilation", help="Pixels by which a region grows, half of them on each side.")
    ] = 4,
    mask_blur: Annotated[
        float, typer.Option("--mask-blur", help="Pixels in which a region fades into the picture.")
    ] = 4.0,
    order: Annotated[
        str | None,
        typer.Option(
            "--order",
            help="given, left-to-right, center-to-edge or largest; default: a detector's regions from left to right.",
        ),
    ] = None,
    max_regions: Annotated[
        int | None, typer.Option("--max-regions", help="How many regions at most: the largest; default: all.")
    ] = None,
) -> None:
    """Redraw faces or other regions of a picture, each at full size; [SEP] in PROMPT divides their prompts."""
    from latentrt.cli.detailing import regions_from_options, tell_regions
    from latentrt.runtime.pictures.image import read_image

    picture = read_image(image)
    regions = regions_from_options(box or (), mask or (), detector, confidence, classes, drawing.threads)

    def call(pipe: Any, batch: "Batch", options: dict[str, Any]) -> Any:
        drawn = pipe.detail(
            batch.prompts,
            image=picture,
            strength=strength,
            padding=padding,
            dilation=dilation,
            mask_blur=mask_blur,
            order=order,
            max_regions=max_regions,
            **regions,
            **options,
        )
        tell_regions(drawn)
        return drawn

    drawing.draw(bundle, prompt, call)
