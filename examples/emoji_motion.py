"""Clips of emoji that slide, hop, turn and scale, drawn by affine transforms.

Used by `93_train_video.py`. Needs opencv-python-headless.

A clip begins with the emoji at rest: the first frame does not tell what follows. How far it moves is its motion
bucket's, and how much of the movement lies between two frames is the frame rate's.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import cast

import cv2
import numpy as np
import numpy.typing as npt

Picture = npt.NDArray[np.uint8]
WHITE = (255, 255, 255)
PERIOD = 8 / 7  # seconds; eight frames at SVD's 7 a second are one turn, so that such a clip loops
MIDDLE_BUCKET = 127.0  # SVD's default: the movements below at their full size


class Motion(Enum):
    """What an emoji does; all come back to rest after a period."""

    SLIDE = "slide"  # to one side, to the other and back
    HOP = "hop"  # straight up and down again
    TURN = "turn"  # in the plane, one way, the other and back
    SCALE = "scale"  # smaller and back


@dataclass(frozen=True, kw_only=True)
class Take:
    """One clip's settings."""

    motion: Motion
    mirrored: bool  # starts to the left instead of the right; nothing to HOP and SCALE
    motion_bucket: float  # 0: still; twice MIDDLE_BUCKET: twice as far
    fps: float
    size: float  # of the emoji at rest, as a share of the picture that it was drawn on


def random_take(rng: np.random.Generator) -> Take:
    """A take as it is trained on; half of them at 7 frames a second."""
    return Take(
        motion=list(Motion)[rng.integers(len(Motion))],
        mirrored=bool(rng.integers(2)),
        motion_bucket=float(np.round(rng.triangular(0, MIDDLE_BUCKET, 255))),
        fps=7.0 if rng.random() < 0.5 else float(rng.integers(5, 15)),
        size=float(rng.uniform(0.75, 0.95)),
    )


def pose_at(take: Take, seconds: float) -> npt.NDArray[np.float64]:
    """The affine matrix (2, 3) at a time, in units of the picture's side with the middle at 0."""
    turn = 2 * np.pi * seconds / PERIOD
    amount = take.motion_bucket / MIDDLE_BUCKET
    side = -1.0 if take.mirrored else 1.0
    matrix, moved = np.eye(2), np.zeros(2)
    if take.motion is Motion.SLIDE:
        moved[0] = side * 0.1 * amount * np.sin(turn)
    elif take.motion is Motion.HOP:
        height = abs(np.sin(turn / 2))
        matrix = np.diag([1 - 0.12 * amount * height, 1 + 0.12 * amount * height])  # slim in flight
        moved[1] = -0.12 * amount * height
    elif take.motion is Motion.TURN:
        angle = side * np.deg2rad(20) * amount * np.sin(turn)
        matrix = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    else:
        matrix = np.eye(2) * (1 - 0.22 * amount * np.sin(turn / 2) ** 2)
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
