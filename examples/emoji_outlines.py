"""Emoji bent out of their own shape, with outlines of them as an edge filter or a hand would draw them.

Used by `92_train_control.py`. Needs opencv-python-headless.
"""

from __future__ import annotations

from typing import cast

import cv2
import numpy as np
import numpy.typing as npt

Picture = npt.NDArray[np.uint8]
WHITE = (255, 255, 255)


def smooth_field(side: int, amplitude: float, blobs: int, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """A displacement in pixels for every pixel (side, side, 2), of about `blobs` hills along a side."""
    coarse = rng.normal(0, amplitude, (blobs, blobs, 2)).astype(np.float32)
    return cast(npt.NDArray[np.float32], cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC))


def displaced(picture: Picture, field: npt.NDArray[np.float32], ground: tuple[int, ...]) -> Picture:
    """Every pixel is taken from where the field points to."""
    rows, columns = np.indices(picture.shape[:2], dtype=np.float32)
    x, y = columns + field[..., 0], rows + field[..., 1]
    return cast(
        Picture,
        cv2.remap(picture, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=ground),
    )


def bent(picture: Picture, rng: np.random.Generator) -> Picture:
    """A picture on white (S, S, 3), mirrored or not, turned, stretched, moved and bent; one in eight stays as it is.

    The model knows every emoji in one shape only. Bent, it cannot be drawn from memory: the outline has to decide.
    """
    if rng.random() < 0.125:
        return picture
    side = len(picture)
    mirrored = picture[:, ::-1] if rng.random() < 0.5 else picture
    size, aspect = rng.uniform(0.6, 1.05), np.exp(rng.normal(0, 0.15))
    angle = np.deg2rad(rng.normal(0, 15))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = size * turn @ np.diag([aspect**0.5, aspect**-0.5])
    middle = side / 2 + rng.uniform(-0.5, 0.5, 2) * max(0.08, 1 - size) * side
    moved = np.hstack([matrix, (middle - matrix @ np.full(2, side / 2))[:, None]])
    turned = cv2.warpAffine(
        np.ascontiguousarray(mirrored), moved, (side, side), flags=cv2.INTER_LINEAR, borderValue=WHITE
    )
    amplitude = side * abs(rng.normal(0, 0.03))
    return displaced(cast(Picture, turned), smooth_field(side, amplitude, 4, rng), WHITE)


def edges(picture: Picture, rng: np.random.Generator) -> Picture:
    """Canny's edges (S, S) between thresholds around the usual 100 and 200."""
    low = rng.uniform(40, 140)
    return cast(Picture, cv2.Canny(picture, low, low + rng.uniform(40, 140)))


def contours(picture: Picture, rng: np.random.Generator) -> Picture:
    """What somebody would draw first (S, S): the outer shape, with some of the lines within it or without any."""
    inside = (picture.min(axis=2) < 235).astype(np.uint8)
    lines = np.zeros(inside.shape, np.uint8)
    found, _ = cv2.findContours(inside, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    outer = [contour for contour in found if cv2.contourArea(contour) > inside.size * 1e-3]
    cv2.drawContours(lines, outer, -1, 255, 1)
    if rng.random() < 0.6:
        drawn, labels, statistics, _ = cv2.connectedComponentsWithStats(edges(picture, rng), connectivity=8)
        long = statistics[:, cv2.CC_STAT_AREA] > len(picture) / 12
        kept = long & (rng.random(drawn) < rng.uniform(0.3, 1.0))
        kept[0] = False  # the ground
        lines[kept[labels]] = 255
    return lines


def by_hand(lines: Picture, rng: np.random.Generator) -> Picture:
    """Lines as an unsteady hand repeats them: beside where they were, and once thicker, once thinner."""
    side = len(lines)
    thin, thick = sorted(rng.uniform(0.008, 0.045, 2) * side)
    strokes = [
        cv2.dilate(lines, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (max(1, round(w)),) * 2)) for w in (thin, thick)
    ]
    pressure = smooth_field(side, 1.0, 5, rng)[..., 0] > 0
    drawn = np.where(pressure, strokes[0], strokes[1]).astype(np.uint8)
    return displaced(drawn, smooth_field(side, side * rng.uniform(0, 0.014), 8, rng), (0,))


def interrupted(lines: Picture, rng: np.random.Generator) -> Picture:
    """Lines with up to four gaps, each of up to a quarter of a side."""
    side, lines = len(lines), lines.copy()
    for _ in range(rng.integers(1, 5)):
        x, y = rng.integers(0, side, 2)
        cv2.circle(lines, (int(x), int(y)), int(side * rng.uniform(0.03, 0.13)), 0, -1)
    return lines


def outline(picture: Picture, size: int, rng: np.random.Generator) -> Picture:
    """White lines on black (size, size) along a larger picture's edges: an edge filter's, or by hand.

    Edges are found at the size that the model draws or at the larger one, where lines become faint when they are
    shrunk; a hand's are thicker than either.
    """
    kind = rng.random()
    if kind < 0.3:
        lines = edges(cast(Picture, cv2.resize(picture, (size, size), interpolation=cv2.INTER_AREA)), rng)
    elif kind < 0.45:
        lines = edges(picture, rng)
    else:
        lines = by_hand(contours(picture, rng), rng)
    if rng.random() < 0.3:
        lines = interrupted(lines, rng)
    shrunk = cv2.resize(lines, (size, size), interpolation=cv2.INTER_AREA).astype(np.float32)
    stronger: Picture = np.clip(shrunk * rng.uniform(1.0, 3.0), 0, 255).astype(np.uint8)
    return stronger


def agreement(picture: Picture, lines: Picture, tolerance: int = 1) -> tuple[float, float]:
    """How far a picture (S, S, 3) follows lines (S, S).

    Returns:
        The share of the lines that have an edge of the picture within a tolerance in pixels, and the share of the
        picture's edges (Canny's, between 100 and 200) that have a line so near. Nothing follows nothing wholly.
    """
    near = np.ones((2 * tolerance + 1,) * 2, np.uint8)
    found, wanted = cv2.Canny(picture, 100, 200), np.where(lines > 127, 255, 0).astype(np.uint8)

    def share(some: Picture, others: Picture) -> float:
        return float((cv2.dilate(others, near)[some > 0] > 0).mean()) if some.any() else 1.0

    return share(wanted, cast(Picture, found)), share(cast(Picture, found), wanted)
