"""One picture that a client asks for, as the server's JSON and as a call of the pipeline: both from the same fields."""

import base64
import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from latentrt.runtime.call.result import Result
    from latentrt.runtime.pipeline import Pipeline

_COARSE = 8  # cells of a source picture


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A picture with its settings.

    ``source`` and ``mask`` number pictures that ``source_picture`` and ``mask_picture`` make; None: there is none.
    ``hires`` has the fields of ``latentrt.Hires``, ``loras`` weights by name.
    """

    prompt: str
    width: int
    height: int
    num_inference_steps: int
    guidance_scale: float
    sampler: str
    seed: int
    negative_prompt: str | None = None
    source: int | None = None
    mask: int | None = None
    strength: float | None = None
    hires: Mapping[str, Any] | None = None
    loras: Mapping[str, float] | None = None

    @property
    def digest(self) -> str:
        """What it is known by."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:24]

    @property
    def way(self) -> str:
        """How it is drawn, in a word."""
        if self.source is not None:
            return "img2img" if self.mask is None else "inpaint"
        if self.hires is not None:
            return "hires"
        return "text" if self.loras is None else "lora"

    def keywords(self) -> dict[str, Any]:
        """Those of ``Pipeline.__call__`` that are set."""
        apart = ("prompt", "source", "mask", "strength")
        found = {field.name: getattr(self, field.name) for field in fields(self) if field.name not in apart}
        return {name: value for name, value in found.items() if value is not None}

    def body(self) -> dict[str, Any]:
        """The JSON of ``POST /v1/jobs``."""
        told: dict[str, Any] = {"prompt": self.prompt, **self.keywords()}
        if self.source is not None:
            told["image"] = _as_text(source_picture(self.source, self.width, self.height))
            told["strength"] = self.strength
        if self.mask is not None:
            told["mask_image"] = _as_text(mask_picture(self.mask, self.width, self.height))
        return told

    def draw(self, pipe: "Pipeline") -> Image.Image:
        """The picture, drawn by a call."""
        from latentrt.runtime.call.hires.hires import Hires

        keywords = self.keywords()
        if self.hires is not None:
            keywords["hires"] = Hires(**self.hires)
        picture = self._drawn(pipe, keywords).images[0]
        assert isinstance(picture, Image.Image)
        return picture

    def _drawn(self, pipe: "Pipeline", keywords: Mapping[str, Any]) -> "Result":
        if self.source is None:
            return pipe(self.prompt, **keywords)
        image = source_picture(self.source, self.width, self.height)
        if self.mask is None:
            return pipe.img2img(self.prompt, image=image, strength=self.strength, **keywords)
        mask = mask_picture(self.mask, self.width, self.height)
        return pipe.inpaint(self.prompt, image=image, mask_image=mask, strength=self.strength, **keywords)


def source_picture(number: int, width: int, height: int) -> Image.Image:
    """A picture of soft coloured patches."""
    cells = np.random.default_rng(number).integers(0, 256, (_COARSE, _COARSE, 3), np.uint8)
    return Image.fromarray(cells).resize((width, height), Image.Resampling.BICUBIC)


def mask_picture(number: int, width: int, height: int) -> Image.Image:
    """White where the picture is drawn anew: a rectangle, a quarter of the picture or more."""
    left, top = np.random.default_rng(number).uniform(0, 0.5, 2)
    mask = Image.new("L", (width, height))
    mask.paste(255, (int(left * width), int(top * height), int((left + 0.5) * width), int((top + 0.5) * height)))
    return mask


def _as_text(picture: Image.Image) -> str:
    """A PNG in base64."""
    memory = io.BytesIO()
    picture.save(memory, "PNG")
    return base64.b64encode(memory.getvalue()).decode()
