"""The calibration set: prompts, and the pictures drawn from them to calibrate and to judge."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Unpack

import numpy as np
from PIL import Image, ImageDraw

from latentrt.engines.bundle.bundle import Bundle
from latentrt.engines.bundle.checks.photograph import photograph
from latentrt.engines.bundle.records.conditioning import Task
from latentrt.engines.bundle.records.manifests.manifest import Start
from latentrt.engines.bundle.tokenizer import tokenizer_from_folder
from latentrt.engines.errors import RequestError
from latentrt.quantization.subjects import DrawnBatch, draw_parts
from latentrt.runtime.call.keywords.options import Options
from latentrt.runtime.call.result import Result
from latentrt.runtime.pipeline import Pipeline

# Pictures to judge by have other seeds than those to calibrate with
_JUDGING_SEED = 1_000_000


@dataclass(frozen=True, kw_only=True)
class CalibrationSet:
    """Prompts, each drawn once with guidance, at the first profile's size, over ``steps`` steps.

    Of a model that reads none they are names of parts of the probes' photograph. A drawing gives ``frames`` pictures.
    """

    prompts: tuple[str, ...]
    steps: int
    seed: int = 0
    frames: int = 1

    @property
    def sha256(self) -> str:
        """A digest of prompts, steps and seed."""
        return hashlib.sha256(json.dumps([self.prompts, self.steps, self.seed]).encode()).hexdigest()

    def pictures(self, least: int) -> int:
        """How many pictures are judged, where so many are wanted: each prompt's, and all frames of a video."""
        return max(-(-least // self.frames), len(self.prompts)) * self.frames

    def calibrating(self, pipe: Pipeline, start: int, *, decoded: bool) -> Iterator[int]:
        """Draws every prompt from the ``start``-th, or its latents; yields how many are done after each batch."""
        for stop, _ in self._batches(pipe, start, len(self.prompts), self.seed, "np" if decoded else "latent"):
            yield stop

    def judging(self, pipe: Pipeline, start: int, count: int) -> Iterator[DrawnBatch]:
        """Draws the pictures to judge by, from the ``start``-th to the ``count``-th, as arrays; yields batches.

        Where there are fewer prompts than pictures they are repeated, with another seed each time. Videos are drawn
        whole.
        """
        first, last = start // self.frames, -(-count // self.frames)
        for _, batch in self._batches(pipe, first, last, self.seed + _JUDGING_SEED, "np"):
            yield batch

    def prompt_of(self, picture: int) -> str:
        """The prompt of a picture to judge by; of a video's, which frame it is."""
        drawing, frame = divmod(picture, self.frames)
        prompt = self.prompts[drawing % len(self.prompts)]
        return prompt if self.frames == 1 else f"{prompt}, frame {frame + 1}"

    def _batches(
        self, pipe: Pipeline, start: int, count: int, seed: int, output_type: str
    ) -> Iterator[tuple[int, DrawnBatch]]:
        profile = pipe.manifest.profiles[0]
        while start < count:
            stop = min(start + profile.batch, count)
            options: Options = {
                "seed": [seed + index for index in range(start, stop)],
                "width": profile.width,
                "height": profile.height,
                "num_inference_steps": self.steps,
                "output_type": output_type,
            }
            places = [index % len(self.prompts) for index in range(start, stop)]
            if pipe.manifest.conditioning.text_encoders:
                result = draw_in_own_workflow(pipe, [self.prompts[place] for place in places], **options)
                images = [np.asarray(image) for image in result.images]
                batch = DrawnBatch(images=images, latents=result.latents, timings=result.timings)
            else:
                batch = draw_parts(pipe, places, start, {**options})
            yield stop, batch
            start = stop


def draw_in_own_workflow(pipe: Pipeline, prompts: list[str], **options: Unpack[Options]) -> Result:
    """Draws as the model was made to: from noise, from the probes' photograph, or into a mask in its middle; or edits.

    Raises:
        RequestError: a model that does not draw from prompts.
    """
    manifest = pipe.manifest
    edits = manifest.conditioning.task is Task.EDITS
    if not (edits or manifest.unet_takes_mask or manifest.traits.starts_from is Start.PICTURE):
        return pipe(prompts, **options)
    image = photograph(manifest.profiles[0])
    if edits:
        return pipe.edit(prompts, image=image, **options)
    if not manifest.unet_takes_mask:
        return pipe.img2img(prompts, image=image, **options)
    mask = Image.new("L", image.size)
    width, height = image.size
    ImageDraw.Draw(mask).rectangle((width // 4, height // 4, width * 3 // 4, height * 3 // 4), fill=255)
    return pipe.inpaint(prompts, image=image, mask_image=mask, **options)


def check_prompts(bundle: Bundle, prompts: tuple[str, ...]) -> None:
    """Refuses prompts of which the model would see no token; a model that reads none has names of pictures.

    Raises:
        RequestError: naming the first of them.
    """
    if not bundle.manifest.conditioning.text_encoders:
        return
    record = bundle.manifest.tokenizers[bundle.manifest.conditioning.text_encoders[0].tokenizer]
    tokenizer = tokenizer_from_folder(bundle.root / record.folder, length=record.length)
    for prompt in prompts:
        ids = tokenizer.encode(prompt).ids
        if int(tokenizer.end_positions(ids[None])[0]) <= 1:
            raise RequestError(f"got the prompt {prompt!r}, which has no tokens, expected words; remove it")
