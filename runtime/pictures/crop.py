"""The part of a picture that is drawn larger: where it lies, how it fills the model's size, and back.

The three functions repeat diffusers' ``get_crop_region`` and its resize modes "fill" and "crop", pixel for pixel.
"""

from dataclasses import dataclass

import numpy as np
from PIL import Image

Box = tuple[int, int, int, int]  # left, top, right, bottom in pixels, as Pillow has them
_LANCZOS = Image.Resampling.LANCZOS


@dataclass(frozen=True, kw_only=True)
class Crop:
    """A part of a picture of a size (width, height) in pixels."""

    size: tuple[int, int]
    box: Box


def crop_region(mask: Image.Image, width: int, height: int, padding: int) -> Box:
    """The region around a mask, padded and widened to an aspect ratio as far as the picture reaches.

    Args:
        mask: grey; everything above 0 belongs to the region, and there must be some.
        width: with ``height`` the aspect ratio wanted.
        height: of the model's picture.
        padding: pixels added on each side.

    Returns:
        A box within the mask's picture.
    """
    painted = np.asarray(mask) != 0
    columns, rows = np.flatnonzero(painted.any(axis=0)), np.flatnonzero(painted.any(axis=1))
    left, right = max(int(columns[0]) - padding, 0), min(int(columns[-1]) + 1 + padding, mask.width)
    top, bottom = max(int(rows[0]) - padding, 0), min(int(rows[-1]) + 1 + padding, mask.height)
    if (right - left) / (bottom - top) > width / height:
        top, bottom = _widened(top, bottom, (right - left) / (width / height), mask.height)
    else:
        left, right = _widened(left, right, (bottom - top) * (width / height), mask.width)
    return left, top, right, bottom


def _widened(start: int, stop: int, wanted: float, limit: int) -> tuple[int, int]:
    """An interval grown to a length on both sides, moved into [0, limit), and cut where it is longer."""
    missing = int(wanted - (stop - start))
    start, stop = start - missing // 2, stop + missing - missing // 2
    if stop >= limit:
        start, stop = start - (stop - limit), limit
    if start < 0:
        start, stop = 0, stop - start
    return start, min(stop, limit)


def size_inside(size: tuple[int, int], width: int, height: int) -> tuple[int, int]:
    """The largest size (width, height) in the proportions of one that lies inside of another."""
    if width / height < size[0] / size[1]:
        return width, max(size[1] * width // size[0], 1)
    return max(size[0] * height // size[1], 1), height


def fit_and_fill(image: Image.Image, width: int, height: int) -> Image.Image:
    """A picture resized to fit inside a size and centred; its outermost rows or columns fill the rest. RGB."""
    wide = width / height < image.width / image.height
    inner_width, inner_height = size_inside(image.size, width, height)
    resized = image.resize((inner_width, inner_height), resample=_LANCZOS)
    result = Image.new("RGB", (width, height))
    left, top = width // 2 - inner_width // 2, height // 2 - inner_height // 2
    result.paste(resized, (left, top))
    # a source box without area takes the edge alone, stretched
    if wide and top > 0:
        result.paste(resized.resize((width, top), box=(0, 0, width, 0)), (0, 0))
        bottom = resized.resize((width, top), box=(0, inner_height, width, inner_height))
        result.paste(bottom, (0, top + inner_height))
    elif not wide and left > 0:
        result.paste(resized.resize((left, height), box=(0, 0, 0, height)), (0, 0))
        right = resized.resize((left, height), box=(inner_width, 0, inner_width, height))
        result.paste(right, (left + inner_width, 0))
    return result


def cover(image: Image.Image, width: int, height: int) -> Image.Image:
    """A picture resized to cover a size, centred, what stands out cut away: what undoes ``fit_and_fill``. RGB."""
    wide = width / height > image.width / image.height
    inner_width = width if wide else image.width * height // image.height
    inner_height = image.height * width // image.width if wide else height
    result = Image.new("RGB", (width, height))
    resized = image.resize((inner_width, inner_height), resample=_LANCZOS)
    result.paste(resized, (width // 2 - inner_width // 2, height // 2 - inner_height // 2))
    return result
