"""``Control``: a control net or a T2I-Adapter and its picture, as a call names them."""

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from enum import StrEnum
from pathlib import Path

from latentrt.runtime.addons.addon import Addon
from latentrt.runtime.pictures.image import Picture

CONTROL_TYPES: Mapping[str, int] = {
    "openpose": 0,
    "depth": 1,
    **dict.fromkeys(("softedge", "hed", "pidi", "scribble", "ted"), 2),
    **dict.fromkeys(("canny", "lineart", "anime_lineart", "mlsd"), 3),
    "normal": 4,
    "segment": 5,
    "tile": 6,
    **dict.fromkeys(("inpaint", "repaint"), 7),
}
"""What union nets call the kinds of pictures that they tell apart: xinsir's order, which diffusers has, too."""


class ControlMode(StrEnum):
    """What counts more, the prompt or the control picture (InvokeAI's modes).

    Attributes:
        BALANCED: both the same.
        PROMPT: residuals of shallow layers count less.
        CONTROL: likewise, and the negative pass sees none of them: diffusers' ``guess_mode``.
    """

    BALANCED = "balanced"
    PROMPT = "prompt"
    CONTROL = "control"


@dataclass(frozen=True, eq=False)
class Control:
    """A control net or a T2I-Adapter, and the picture that it follows.

    Attributes:
        net: the path of its bundle, or what ``latentrt.open_addon`` gave.
        image: the control picture, as ``Pipeline.img2img`` takes pictures; one for all that are drawn, or one for each.
        scale: what its residuals or features are multiplied by.
        start: the part of the steps, 0 to 1, that passes before it begins.
        end: the part of the steps after which it ends.
        mode: "balanced", "prompt" or "control".
        type: union nets: of which kind the picture is, such as "canny", or its number.
    """

    net: str | Path | Addon
    image: Picture | Sequence[Picture]
    _: KW_ONLY
    scale: float = 1.0
    start: float = 0.0
    end: float = 1.0
    mode: str | ControlMode = ControlMode.BALANCED
    type: str | int | None = None
