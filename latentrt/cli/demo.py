"""The demo: the embedded model's bundle, and a contact sheet drawn from it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

from PIL import Image, ImageDraw, ImageFont

from latentrt.building.build import build
from latentrt.cli.terminal import BuildProgress, step_bar
from latentrt.engines.errors import RequestError
from latentrt.engines.files import output_error
from latentrt.models import EMBEDDED
from latentrt.opening import open as open_pipeline
from latentrt.runtime.pictures.image import write_png

PROMPTS = ("cat", "crying face", "strawberry", "sunflower", "frog", "red apple", "dog face", "octopus")
SEEDS = (1, 2, 3, 4)
STEPS = 20
GUIDANCE = 3.0
_CELL, _GAP, _LABEL = 64, 6, 104


@dataclass(frozen=True, kw_only=True)
class Demo:
    """What was made, and seconds per stage."""

    bundle: Path
    sheet: Path
    seconds: dict[str, float]


def run(folder: Path) -> Demo:
    """Builds ``folder``/emoji.bundle if it is not up to date, and draws ``folder``/emoji.png.

    Raises:
        LatentrtError: as ``build`` and ``open`` do.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise output_error(folder, error) from error
    marks = [perf_counter()]
    made = build(EMBEDDED, folder / "emoji.bundle", progress=BuildProgress())
    marks.append(perf_counter())
    with open_pipeline(made.bundle.root) as pipe:
        marks.append(perf_counter())
        prompts = [prompt for prompt in PROMPTS for _ in SEEDS]
        with step_bar("drawing") as progress:
            result = pipe(
                prompts,
                seed=list(SEEDS) * len(PROMPTS),
                num_inference_steps=STEPS,
                guidance_scale=GUIDANCE,
                progress=progress,
            )
    marks.append(perf_counter())
    pictures = [image for image in result.images if isinstance(image, Image.Image)]
    sheet = folder / "emoji.png"
    write_png(sheet, contact_sheet(pictures, PROMPTS, [f"seed {seed}" for seed in SEEDS]))
    marks.append(perf_counter())
    names = (
        "build (up to date)" if made.up_to_date else "build",
        "open",
        f"draw {len(pictures)} pictures",
        "write",
    )
    seconds = {name: after - before for name, before, after in zip(names, marks, marks[1:], strict=False)}
    return Demo(bundle=made.bundle.root, sheet=sheet, seconds=seconds)


def contact_sheet(
    pictures: Sequence[Image.Image], rows: Sequence[str], columns: Sequence[str], *, scale: int = 2, label: int = _LABEL
) -> Image.Image:
    """Pictures in rows × columns with their labels.

    Args:
        pictures: row-major.
        rows: a label per row.
        columns: a label per column.
        scale: a cell is 64 times as many pixels wide.
        label: width of the row labels, in pixels times ``scale``.

    Raises:
        RequestError: the number of pictures is not rows times columns.
    """
    if len(pictures) != len(rows) * len(columns):
        raise RequestError(f"got {len(pictures)} pictures for {len(rows)} × {len(columns)} cells; give one per cell")
    cell, gap, label, top = _CELL * scale, _GAP * scale, label * scale, 20 * scale
    size = (label + len(columns) * (cell + gap), top + len(rows) * (cell + gap))
    sheet = Image.new("RGB", size, "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=12 * scale)
    for column, text in enumerate(columns):
        draw.text((label + column * (cell + gap) + cell / 2, top / 2), text, "#555555", font, anchor="mm")
    for row, text in enumerate(rows):
        y = top + row * (cell + gap)
        draw.text((label - gap, y + cell / 2), text, "#222222", font, anchor="rm")
        for column in range(len(columns)):
            picture = pictures[row * len(columns) + column].resize((cell, cell), Image.Resampling.NEAREST)
            sheet.paste(picture, (label + column * (cell + gap), y))
    return sheet
