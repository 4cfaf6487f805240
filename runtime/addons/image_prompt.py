"""``ImagePrompt``: an IP-Adapter and its pictures, as a call names them."""

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Any

from latentrt.runtime.addons.addon import Addon
from latentrt.runtime.pictures.image import Picture


@dataclass(frozen=True, eq=False)
class ImagePrompt:
    """An IP-Adapter, and the pictures that say what to draw.

    Attributes:
        adapter: the path of its bundle, or what ``latentrt.open_addon`` gave.
        images: one picture or several, which are seen together, for all pictures drawn.
        scale: how much they count.
        mask: where they count: white, at the size of the picture; None: everywhere.
        blocks: which cross-attentions they count for: "style" or "composition", or diffusers' scales of blocks:
            ``{"down": {"block_2": [0.0, 1.0]}, "up": {"block_0": [0.0, 1.0, 0.0]}}``; what is not named counts
            nothing. None: all.
        start: the part of the steps, 0 to 1, that passes before they begin.
        end: the part of the steps after which they end.
    """

    adapter: str | Path | Addon
    images: Picture | Sequence[Picture]
    _: KW_ONLY
    scale: float = 1.0
    mask: Picture | None = None
    blocks: str | Mapping[str, Any] | None = None
    start: float = 0.0
    end: float = 1.0
