"""``Region``: a part of the picture with a prompt of its own, as a call names it."""

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass

from latentrt.runtime.pictures.image import Picture


@dataclass(frozen=True, eq=False)
class Region:
    """A part of the picture, and the prompt that holds there. It has a box or a mask.

    Attributes:
        prompt: what to draw there, in the syntax of the call.
        box: (left, top, right, bottom) as shares of the picture's width and height, 0 to 1: (0, 0, 0.5, 1) is the left
            half.
        mask: where it is: white, and by half where it is grey. PIL or an array (H, W) in the picture's proportions.
        prompt_2: models with two text encoders: what the second one reads instead of the prompt.
        weight: how much it counts. Below 1 the prompt of the call keeps the rest; where regions lie over each other,
            each has its share.
        feather: over which part of the picture's shorter side, 0 to 1, its edges fade.
    """

    prompt: str
    _: KW_ONLY
    box: Sequence[float] | None = None
    mask: Picture | None = None
    prompt_2: str | None = None
    weight: float = 1.0
    feather: float = 0.0
