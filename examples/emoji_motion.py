"""Clips of emoji that hop, drawn by affine transforms.

Used by `93_train_video.py`. Needs opencv-python-headless.

A clip begins with the emoji at rest. How high it hops is its motion bucket's, and how much of the hop lies between
two frames is the frame rate's: a model of so few weights has nothing to guess and learns to move what it is shown.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import cv2
import numpy as np
import numpy.typing as npt

Picture = npt.NDArray[np.uint8]
WHITE = (255, 255, 255)
PERIOD = 8 / 7  # seconds; eight frames at SVD's 7 a second are one hop, so that such a clip loops
MIDDLE_BUCKET = 127.0  # SVD's default


@dataclass(frozen=True, kw_only=True)
class Take:
    """One clip's settings."""

    motion_bucket: float  # 0: still; twice MIDDLE_BUCKET: twice as high
    fps: float
    size: float  # of the emoji at rest, as a share of the picture that it was drawn on


def random_take(rng: np.random.Generator) -> Take:
    """A take as it is trained on; half of them at 7 frames a second."""
    return Take(
        motion_bucket=float(np.round(rng.triangular(0, MIDDLE_BUCKET, 255))),
        fps=7.0 if rng.random() < 0.5 else float(rng.integers(5, 15)),
        size=float(rng.uniform(0.75, 0.95)),
    )


def pose_at(take: Take, seconds: float) -> npt.NDArray[np.float64]:
    """The affine matrix (2, 3) at a time, in units of the picture's side with the middle at 0."""
    amount = take.motion_bucket / MIDDLE_BUCKET
    height = abs(np.sin(np.pi * seconds / PERIOD))
    matrix = np.diag([1 - 0.12 * amount * height, 1 + 0.12 * amount * height])  # slim in flight
    moved = np.array([0.0, -0.12 * amount * height])
    return np.hstack([take.size * matrix, moved[:, None]])


def clip_from_picture(picture: Picture, take: Take, frames: int, side: int) -> Picture:
    """Frames (F, side, side, 3) of a picture on white (S, S, 3), S a multiple of the side."""
    large = len(picture)
    centred = np.array([[1.0, 0.0, -(large - 1) / 2], [0.0, 1.0, -(large - 1) / 2], [0.0, 0.0, 1.0]])
    drawn = []
    for frame in range(frames):
        pose = pose_at(take, frame / take.fps)
        pose[:, 2] *= large
        matrix = pose @ centred
        matrix[:, 2] += (large - 1) / 2
        moved = cv2.warpAffine(picture, matrix, (large, large), flags=cv2.INTER_LINEAR, borderValue=WHITE)
        drawn.append(cv2.resize(moved, (side, side), interpolation=cv2.INTER_AREA))
    return cast(Picture, np.stack(drawn))
