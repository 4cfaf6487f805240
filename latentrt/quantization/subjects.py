"""What a model is given to calibrate and to judge: prompts, or parts of the probes' photograph if it reads none."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from latentrt.engines.bundle.checks.photograph import photograph
from latentrt.engines.bundle.records.conditioning import Task
from latentrt.engines.bundle.records.manifests.manifest import BundleManifest
from latentrt.engines.errors import RequestError
from latentrt.engines.shapes import Profile
from latentrt.engines.spec import Array
from latentrt.models import EMBEDDED, EMOJI
from latentrt.prompt_files import prompts_from_file
from latentrt.runtime.call.result import Timings
from latentrt.runtime.pipeline import Pipeline

# Left, top, right and bottom as shares of the photograph: all of it, then ever smaller parts
_BOXES = (
    (0, 0, 1, 1),
    (0, 0, 2 / 3, 2 / 3),
    (1 / 3, 1 / 3, 1, 1),
    (1 / 3, 0, 1, 2 / 3),
    (0, 1 / 3, 2 / 3, 1),
    (1 / 4, 1 / 4, 3 / 4, 3 / 4),
    (0, 0, 1 / 2, 1 / 2),
    (1 / 2, 1 / 2, 1, 1),
)
_FEWEST, _FRAMES = 2, 32  # parts of the photograph, and frames of their videos in all
_AROUND, _RISES = 50.0, (0.0, 20.0, -20.0)  # degrees from one view to the next
_MOTIONS = (127, 60, 200)  # motion buckets: the usual one, little, much


@dataclass(frozen=True, kw_only=True)
class DrawnBatch:
    """What one call drew: pictures (H, W, 3), those of a video one after another, and the latents of each drawing.

    ``images`` is empty where latents alone were asked for.
    """

    images: list[Array]
    latents: Array
    timings: Timings


@dataclass(frozen=True, kw_only=True)
class DrawnModel:
    """What must be known of a model to draw with it.

    Attributes:
        name: decides which prompts it is given by default.
        steps: its default number of steps.
        reads_text: whether it draws from prompts.
        frames: of one of its videos, at the first profile; 1 of a model that draws pictures.
    """

    name: str
    steps: int
    reads_text: bool = True
    frames: int = 1

    def subjects(self, prompts: Sequence[str] | None) -> tuple[str, ...]:
        """The prompts, by default the model's; or names of parts of the photograph, as many as its frames leave time.

        Raises:
            RequestError: prompts for a model that reads none.
        """
        if self.reads_text:
            return tuple(prompts or default_prompts(self.name))
        if prompts:
            raise RequestError(
                "got prompts to calibrate with for a model that reads none, expected none, as it is given parts of a "
                "photograph; leave them out"
            )
        count = max(_FEWEST, min(len(_BOXES), -(-_FRAMES // self.frames)))
        return tuple(f"part {index + 1} of the photograph" for index in range(count))


def drawn_model_of(manifest: BundleManifest) -> DrawnModel:
    """That of a bundle."""
    return DrawnModel(
        name=manifest.source.name,
        steps=manifest.defaults.num_inference_steps,
        reads_text=bool(manifest.conditioning.text_encoders),
        frames=manifest.profiles[0].frames,
    )


def default_prompts(model: str) -> tuple[str, ...]:
    """The prompts for a model where the caller gives none; the embedded model knows other words than the rest."""
    return prompts_from_file((EMOJI if model == EMBEDDED else Path(__file__).resolve().parent) / "prompts.txt")


def part_of_photograph(index: int, profile: Profile) -> Image.Image:
    """A part at a profile's size; they are counted from 0, and begin anew behind the last."""
    whole = photograph()
    left, top, right, bottom = _BOXES[index % len(_BOXES)]
    box = (left * whole.width, top * whole.height, right * whole.width, bottom * whole.height)
    return whole.resize((profile.width, profile.height), Image.Resampling.LANCZOS, box=box)


def draw_parts(pipe: Pipeline, parts: Sequence[int], first: int, options: dict[str, Any]) -> DrawnBatch:
    """Draws with a model that reads no prompts: videos, views from around, or variations of parts of the photograph.

    Args:
        pipe: the model's.
        parts: one for each drawing.
        first: which drawing the first of them is; poses and motion go by that.
        options: what every call takes.
    """
    manifest = pipe.manifest
    images = [part_of_photograph(part, manifest.profiles[0]) for part in parts]
    task, drawings = manifest.conditioning.task, range(first, first + len(parts))
    if task is Task.VIDEOS:
        motion = _MOTIONS[first % len(_MOTIONS)]
        videos = pipe.img2vid(images, num_frames=manifest.profiles[0].frames, motion_bucket_id=motion, **options)
        frames = [np.asarray(frame) for video in videos.frames for frame in video]
        return DrawnBatch(images=frames, latents=videos.latents, timings=videos.timings)
    if task is Task.VIEWS:
        azimuths = [_AROUND * drawing % 360.0 for drawing in drawings]
        elevations = [_RISES[drawing % len(_RISES)] for drawing in drawings]
        result = pipe.view(images, azimuth=azimuths, elevation=elevations, **options)
    else:
        result = pipe.variation(images, **options)
    return DrawnBatch(
        images=[np.asarray(image) for image in result.images], latents=result.latents, timings=result.timings
    )
