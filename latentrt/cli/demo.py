"""The demo: the embedded model's bundle, and a contact sheet drawn from it."""

from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

from PIL import Image

from latentrt.building.build import build
from latentrt.cli.contact_sheet import Side, contact_sheet
from latentrt.cli.terminal import BuildProgress, step_bar
from latentrt.engines.files import output_error
from latentrt.models import EMBEDDED
from latentrt.opening import open_pipeline
from latentrt.runtime.pictures.image import write_png

PROMPTS = ("cat", "crying face", "strawberry", "sunflower", "frog", "red apple", "dog face", "octopus")
SEEDS = (1, 2, 3, 4)
STEPS = 20
GUIDANCE = 3.0


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
    columns = Side(labels=[f"seed {seed}" for seed in SEEDS])
    write_png(sheet, contact_sheet(pictures, Side(labels=PROMPTS), columns, size=pictures[0].size))
    marks.append(perf_counter())
    names = (
        "build (up to date)" if made.up_to_date else "build",
        "open",
        f"draw {len(pictures)} pictures",
        "write",
    )
    seconds = {name: after - before for name, before, after in zip(names, marks, marks[1:], strict=False)}
    return Demo(bundle=made.bundle.root, sheet=sheet, seconds=seconds)
