"""How cells become calls of a pipeline."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from latentrt.arguments.loras import lora_from_text
from latentrt.cli.grids.cells import Cell
from latentrt.cli.grids.settings import Settings
from latentrt.engines.bundle.records.conditioning import Task
from latentrt.engines.errors import RequestError
from latentrt.runtime.call.keywords.options import OnProgress, set_options
from latentrt.runtime.call.prompts.prompt_set import prompt_set_from_keywords
from latentrt.runtime.metadata.picture_metadata import PictureMetadata


class CellCalls:
    """Checks and draws cells with one pipeline, into which it loads all of their LoRAs."""

    def __init__(self, pipe: Any, cells: Sequence[Cell]) -> None:
        """Loads the LoRAs.

        Raises:
            RequestError: one that cannot be read, or is for another model.
        """
        self._pipe = pipe
        self._images: dict[Path, Image.Image] = {}
        texts = dict.fromkeys(text for cell in cells for text in cell.settings.drawing.lora or ())
        paths = dict.fromkeys(lora_from_text(text).path for text in texts)
        self._loras: dict[Path, str] = {}
        if paths:
            from latentrt.cli.drawing.loras import load_loras

            self._loras = dict(zip(paths, load_loras(pipe, [str(path) for path in paths]), strict=True))

    def check(self, settings: Settings) -> PictureMetadata:
        """The settings that a cell's picture will carry.

        Raises:
            LatentrtError: an argument that cannot be served.
        """
        metadata: PictureMetadata = self._pipe.check(settings.prompt, **self._arguments(settings))[0]
        return metadata

    def draw(self, settings: Settings, progress: OnProgress) -> Any:
        """The result with a cell's picture.

        Raises:
            LatentrtError: as the pipeline does.
        """
        arguments = {**self._arguments(settings), "progress": progress}
        if settings.drawing.image is None:
            return self._pipe(settings.prompt, **arguments)
        edits = self._pipe.manifest.conditioning.task is Task.EDITS and arguments["strength"] is None
        if edits:
            del arguments["strength"]
        return (self._pipe.edit if edits else self._pipe.img2img)(settings.prompt, **arguments)

    def _arguments(self, settings: Settings) -> dict[str, Any]:
        drawing = settings.drawing
        options = drawing.options()
        options |= {"seed": drawing.seed, "sampler": drawing.sampler_of(self._pipe.manifest.defaults)}
        prompts = prompt_set_from_keywords(self._pipe.manifest, settings.prompt, set_options(options))
        if drawing.lora or prompts.names_loras:
            from latentrt.cli.drawing.loras import loras_of_pictures

            loras = map(lora_from_text, drawing.lora or ())
            weights = {self._loras[lora.path]: lora.weights for lora in loras}
            options["loras"] = loras_of_pictures(self._pipe, prompts, weights)[1]
        if drawing.image is None and drawing.strength is not None:
            raise RequestError("got --strength without --image, where nothing has it; add --image, or leave it out")
        if drawing.image is not None:
            options |= {"image": self._image(drawing.image), "strength": drawing.strength}
        return options

    def _image(self, path: Path) -> Image.Image:
        from latentrt.runtime.pictures.image import read_image

        if path not in self._images:
            self._images[path] = read_image(path)
        return self._images[path]
