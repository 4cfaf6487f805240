"""Prompts to calibrate with, pictures drawn from them, and what a killed calibration leaves for the next."""

import hashlib
import json
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Unpack

import numpy as np
from PIL import Image, ImageDraw

from latentrt.engines.bundle.bundle import Bundle
from latentrt.engines.bundle.manifest import Start
from latentrt.engines.bundle.photograph import photograph
from latentrt.engines.bundle.tokenizer import tokenizer_from_folder
from latentrt.engines.engine import Engine
from latentrt.engines.errors import RequestError
from latentrt.engines.files import write_file
from latentrt.engines.shapes import Shapes
from latentrt.engines.spec import Array
from latentrt.engines.store.components import Engines
from latentrt.models import EMBEDDED, EMOJI
from latentrt.runtime.call.options import Options
from latentrt.runtime.call.result import Result
from latentrt.runtime.pipeline import Pipeline

# Pictures that judge have seeds that no calibration has
_JUDGING = 1_000_000


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """What is drawn: every prompt once, with guidance, at the first profile's size, over ``steps`` steps."""

    prompts: tuple[str, ...]
    steps: int
    seed: int = 0

    @property
    def sha256(self) -> str:
        """A digest of all of it."""
        return hashlib.sha256(json.dumps([self.prompts, self.steps, self.seed]).encode()).hexdigest()

    def calibrating(self, pipe: Pipeline, start: int, *, decoded: bool) -> Iterator[int]:
        """Draws every prompt from the ``start``-th, or its latents; yields how many are done after each batch."""
        for stop, _ in self._batches(pipe, start, len(self.prompts), self.seed, "np" if decoded else "latent"):
            yield stop

    def judging(self, pipe: Pipeline, start: int, count: int) -> Iterator[Result]:
        """Draws the ``start``-th to the ``count``-th of the pictures that judge, as arrays; yields batches.

        Prompts take turns where there are fewer, with another seed each time.
        """
        for _, drawn in self._batches(pipe, start, count, self.seed + _JUDGING, "np"):
            yield drawn

    def prompt_of(self, index: int) -> str:
        """The prompt of a picture that judges."""
        return self.prompts[index % len(self.prompts)]

    def _batches(
        self, pipe: Pipeline, start: int, count: int, seed: int, output_type: str
    ) -> Iterator[tuple[int, Result]]:
        profile = pipe.manifest.profiles[0]
        while start < count:
            stop = min(start + profile.batch, count)
            result = _drawn(
                pipe,
                [self.prompt_of(index) for index in range(start, stop)],
                seed=[seed + index for index in range(start, stop)],
                width=profile.width,
                height=profile.height,
                num_inference_steps=self.steps,
                output_type=output_type,
            )
            yield stop, result
            start = stop


def _drawn(pipe: Pipeline, prompts: list[str], **options: Unpack[Options]) -> Result:
    """Draws as the model is made to: from noise, or from the photograph of the probes, or into its middle."""
    manifest = pipe.manifest
    if not (manifest.unet_takes_mask or manifest.traits.starts_from is Start.PICTURE):
        return pipe(prompts, **options)
    image = photograph(manifest.profiles[0])
    if not manifest.unet_takes_mask:
        return pipe.img2img(prompts, image=image, **options)
    mask = Image.new("L", image.size)
    width, height = image.size
    ImageDraw.Draw(mask).rectangle((width // 4, height // 4, width * 3 // 4, height * 3 // 4), fill=255)
    return pipe.inpaint(prompts, image=image, mask_image=mask, **options)


def default_prompts(model: str) -> tuple[str, ...]:
    """What a model is calibrated with where nothing is said: the embedded model knows other words than the rest."""
    return prompts_from_file((EMOJI if model == EMBEDDED else Path(__file__).resolve().parent) / "prompts.txt")


def prompts_from_file(path: Path) -> tuple[str, ...]:
    """The prompts of a text file, one a line; empty lines are skipped.

    Raises:
        RequestError: the file cannot be read, is not UTF-8, or has no prompt.
    """
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except OSError as error:
        raise RequestError(
            f"got prompts {str(path)!r}, which cannot be read ({error.strerror}); name a file"
        ) from error
    except ValueError as error:
        raise RequestError(
            f"got prompts {str(path)!r}, expected UTF-8 text with one prompt a line; convert it"
        ) from error
    prompts = tuple(line.strip() for line in lines if line.strip())
    if not prompts:
        raise RequestError(f"got prompts {str(path)!r} without a prompt, expected one a line; add some")
    return prompts


def check_prompts(bundle: Bundle, prompts: tuple[str, ...]) -> None:
    """Refuses prompts that the model would not see anything of.

    Raises:
        RequestError: naming the first of them.
    """
    record = bundle.manifest.tokenizers[bundle.manifest.conditioning.text_encoders[0].tokenizer]
    tokenizer = tokenizer_from_folder(bundle.root / record.folder, length=record.length)
    for prompt in prompts:
        ids = tokenizer.encode(prompt).ids
        if int(tokenizer.end_positions(ids[None])[0]) <= 1:
            raise RequestError(f"got the prompt {prompt!r}, which has no tokens, expected words; remove it")


class Replaced:
    """A bundle's opened components with other engines in the place of some."""

    def __init__(self, components: Engines, engines: Mapping[str, Engine]) -> None:
        self.bundle, self.backend = components.bundle, components.backend
        self._components, self._engines = components, engines

    def engine(self, component: str, shapes: Shapes) -> Engine:
        """The engine given for it, or the bundle's."""
        return self._engines.get(component) or self._components.engine(component, shapes)

    def close(self) -> None:
        """Closes the engines given, and no other."""
        for engine in self._engines.values():
            engine.close()


class Kept:
    """Results of a calibration in files, so that one that was killed goes on where it was.

    They belong to one fingerprint: what was kept for another is removed.
    """

    def __init__(self, folder: Path, fingerprint: Mapping[str, Any]) -> None:
        """Opens or makes the folder."""
        self._folder = folder
        told = json.dumps(dict(fingerprint), sort_keys=True)
        stamp = folder / "fingerprint.json"
        if not stamp.is_file() or stamp.read_text("utf-8") != told:
            folder.mkdir(parents=True, exist_ok=True)
            for old in folder.glob("*.npz"):
                old.unlink()
            write_file(stamp, lambda path: _write_text(path, told))

    def load(self, name: str) -> dict[str, Array] | None:
        """The arrays kept under a name; None if there are none, or a damaged file."""
        try:
            with np.load(self._folder / f"{name}.npz") as saved:
                return dict(saved)
        except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile):
            return None

    def save(self, name: str, arrays: Mapping[str, Array]) -> None:
        """Replaces what is kept under a name, in one rename."""

        def write(path: Path) -> None:
            with path.open("wb") as file:
                np.savez(file, **dict(arrays))  # type: ignore[arg-type]  # names are the caller's

        write_file(self._folder / f"{name}.npz", write)


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, "utf-8")
