"""Emoji as thick cards that are seen from any place, drawn by what the place says alone.

Used by `94_train_views.py`. Needs opencv-python-headless.

A card stands upright and is seen without perspective. Its back is its front in a mirror, and its rim is darker, so
that nothing of it has to be guessed and it never vanishes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import cv2
import numpy as np
import numpy.typing as npt

Picture = npt.NDArray[np.uint8]
THICKNESS = 0.12  # of a card, as a share of its side
THINNEST = 1 / 32  # of a face that is seen from its side, as a share of the picture
RIM = 0.7  # of the front's brightness


@dataclass(frozen=True, kw_only=True)
class View:
    """Where the camera stands, from where the picture was taken."""

    elevation: float = 0.0  # degrees upwards
    azimuth: float = 0.0  # degrees to the right
    distance: float = 0.0  # how much farther away: 0 is as in the picture

    @property
    def numbers(self) -> tuple[float, float, float, float]:
        """What a Zero123 is told (`gradio_new.py` of its authors): change of the polar angle, azimuth, distance."""
        around = np.deg2rad(self.azimuth)
        return -float(np.deg2rad(self.elevation)), float(np.sin(around)), float(np.cos(around)), self.distance


def random_view(rng: np.random.Generator) -> View:
    """A view as it is trained on; half of them as high, and half as far away, as the picture."""
    return View(
        elevation=0.0 if rng.random() < 0.5 else float(rng.uniform(-50, 50)),
        azimuth=float(rng.uniform(0, 360)),
        distance=0.0 if rng.random() < 0.5 else float(rng.uniform(-0.2, 0.5)),
    )


def card_from_view(cutout: Picture, size: float, view: View, side: int) -> Picture:
    """A card before white (side, side, 3).

    Args:
        cutout: the emoji with its alpha (S, S, 4), S a multiple of the side.
        size: of the card in the picture, as a share of it.
        view: where it is seen from.
        side: in pixels.
    """
    large = len(cutout)
    extent = large * size / (1 + view.distance)
    polar, sine, cosine, _ = view.numbers
    width, height = (
        max(round(large * THINNEST), round(extent * share)) for share in (abs(cosine), float(np.cos(polar)))
    )
    front = cutout.astype(np.float32)
    front[..., :3] *= front[..., 3:] / 255  # or what is transparent would colour the edge
    front = cv2.resize(front, (width, height), interpolation=cv2.INTER_AREA)
    if cosine < 0:
        front = front[:, ::-1]
    rim = np.concatenate([front[..., :3] * RIM, front[..., 3:]], axis=-1)

    canvas = np.full((large, large, 3), 255, np.float32)
    facing = 1 if cosine >= 0 else -1  # which of the two faces is nearer
    thick = THICKNESS * extent
    for depth in np.linspace(-0.5, 0.5, 1 + round(thick)) * facing * thick:
        # the front's normal, as the camera sees it
        left = round(large / 2 - width / 2 - depth * sine)
        top = round(large / 2 - height / 2 - depth * cosine * np.sin(polar))
        _paint(canvas, front if depth * facing > 0.49 * thick else rim, left, top)
    return cast(Picture, cv2.resize(canvas, (side, side), interpolation=cv2.INTER_AREA).round().astype(np.uint8))


def _paint(canvas: npt.NDArray[np.float32], layer: npt.NDArray[np.float32], left: int, top: int) -> None:
    """Lays a layer whose colours are multiplied by its alpha over a canvas, as far as it is inside."""
    side = len(canvas)
    height, width = layer.shape[:2]
    rows, columns = slice(max(0, -top), min(height, side - top)), slice(max(0, -left), min(width, side - left))
    shown = layer[rows, columns]
    below = canvas[max(0, top) : max(0, top) + shown.shape[0], max(0, left) : max(0, left) + shown.shape[1]]
    below *= 1 - shown[..., 3:] / 255
    below += shown[..., :3]
