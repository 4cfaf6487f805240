"""What a detail pass gives back."""

from dataclasses import dataclass

from latentrt.runtime.call.result import Result
from latentrt.runtime.pictures.crop import Box


@dataclass(frozen=True, kw_only=True)
class DetailedRegion:
    """A region of a picture.

    Attributes:
        box: around its mask: left, top, right, bottom in pixels.
        prompt: what was drawn there.
        seed: of its noise.
        score: how surely the detector found it; None: it was given.
        label: as what.
        drawn: False where the prompt says ``[SKIP]``, at strength 0, and behind an interruption.
    """

    box: Box
    prompt: str
    seed: int
    score: float | None = None
    label: str | None = None
    drawn: bool = True


@dataclass(frozen=True, kw_only=True)
class DetailResult(Result):
    """A result whose pictures have regions: those of each picture, in the order of drawing.

    ``latents`` are those of all regions that were drawn, (R, C, H/f, W/f), one picture's after the other's.
    """

    regions: tuple[tuple[DetailedRegion, ...], ...]
