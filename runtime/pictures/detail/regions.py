"""The regions of a picture that are drawn anew one by one: their masks, from boxes or from masks, and their order.

What a number does to a mask is what it does in ADetailer: ``dilation`` is the side of a square kernel, as in OpenCV's
``dilate``, and ``blur`` the standard deviation of a Gaussian in pixels.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

import numpy as np
from PIL import Image, ImageFilter

from latentrt.engines.errors import RequestError, shown
from latentrt.engines.spec import Array
from latentrt.runtime.arrays import as_array, is_array
from latentrt.runtime.checks import number, numbers, whole
from latentrt.runtime.pictures.crop import Box
from latentrt.runtime.pictures.image import Picture
from latentrt.runtime.pictures.mask import masks_from_argument, white_places

_LARGEST_KERNEL = 1024  # pixels
_LARGEST_BLUR = 256.0


class RegionOrder(StrEnum):
    """Which region is drawn first.

    Attributes:
        GIVEN: as they were given; of a detector the surest.
        LEFT_TO_RIGHT: by their left edges.
        CENTER_TO_EDGE: by how far their middles are from the picture's.
        LARGEST: by the area of their boxes.
    """

    GIVEN = "given"
    LEFT_TO_RIGHT = "left-to-right"
    CENTER_TO_EDGE = "center-to-edge"
    LARGEST = "largest"


@dataclass(frozen=True, kw_only=True, eq=False)
class DetailRegion:
    """A part of a picture.

    Attributes:
        size: of the picture, (width, height) in pixels.
        box: around the region: left, top, right, bottom.
        mask: (bottom − top, right − left) bool: what of the box is the region.
        score: how surely a detector found it; None: it was given.
        label: as what.
    """

    size: tuple[int, int]
    box: Box
    mask: Array
    score: float | None = None
    label: str | None = None

    def dilated(self, kernel: int) -> "DetailRegion | None":
        """Grown by a square kernel of so many pixels; below 0 shrunk. None: nothing is left."""
        if kernel == 0:
            return self
        reach, (width, height), (left, top, right, bottom) = abs(kernel), self.size, self.box
        box = (max(left - reach, 0), max(top - reach, 0), min(right + reach, width), min(bottom + reach, height))
        wide = _moved(self.mask, self.box, box)
        # What lies outside of the picture neither grows nor shrinks a mask
        return self._tightened(_spread(wide, kernel) if kernel > 0 else ~_spread(~wide, -kernel), box)

    def image(self, blur: float) -> Image.Image:
        """The mask of the whole picture in grey, its edges blurred with a standard deviation in pixels."""
        grey = Image.new("L", self.size)
        grey.paste(Image.fromarray(self.mask.astype(np.uint8) * np.uint8(255)), self.box[:2])
        soft = grey.filter(ImageFilter.GaussianBlur(blur)) if blur else grey
        return soft if np.asarray(soft).max() >= 128 else grey  # what is thinner than its blur would fade away

    def _tightened(self, mask: Array, box: Box) -> "DetailRegion | None":
        rows, columns = (np.flatnonzero(mask.any(axis=axis)).tolist() for axis in (1, 0))
        if not rows:
            return None
        left, top = box[0] + columns[0], box[1] + rows[0]
        right, bottom = box[0] + columns[-1] + 1, box[1] + rows[-1] + 1
        tight = left, top, right, bottom
        return replace(self, box=tight, mask=_moved(mask, box, tight))


def regions_from_boxes(boxes: Any, width: int, height: int) -> list[DetailRegion]:
    """The regions of boxes.

    Args:
        boxes: one (left, top, right, bottom) in pixels, or several, as numbers or an array (N, 4).
        width: of the picture, in pixels.
        height: in pixels.

    Raises:
        RequestError: something else, or a box that is empty or outside of the picture.
    """
    given = as_array(boxes, "boxes").tolist() if is_array(boxes) else boxes
    if isinstance(given, Sequence) and not isinstance(given, str) and len(given) == 4 and _is_number(given[0]):
        given = [given]
    if not isinstance(given, Sequence) or isinstance(given, str):
        raise RequestError(f"got boxes {shown(boxes)}, expected a list of (left, top, right, bottom); give one")
    return [region_of_box(_checked_box(box, width, height), width, height) for box in given]


def regions_from_masks(masks: Any, width: int, height: int) -> list[DetailRegion]:
    """The regions of masks: white, one half and above, is a region's.

    Args:
        masks: as ``masks_from_argument`` takes them, each of the picture's size.
        width: of the picture, in pixels.
        height: in pixels.

    Raises:
        RequestError: no masks, or one of another size or without white.
    """
    given = [] if isinstance(masks, (list, tuple)) and not masks else masks_from_argument(masks, "masks")
    return [_region_of_mask(mask, index, width, height) for index, mask in enumerate(given)]


def region_of_box(
    box: Sequence[float], width: int, height: int, score: float | None = None, label: str | None = None
) -> DetailRegion:
    """Every pixel of a picture that a box touches; some of the box lies in the picture."""
    left, top = max(math.floor(box[0]), 0), max(math.floor(box[1]), 0)
    right, bottom = min(math.ceil(box[2]), width), min(math.ceil(box[3]), height)
    mask = np.ones((bottom - top, right - left), np.bool_)
    return DetailRegion(size=(width, height), box=(left, top, right, bottom), mask=mask, score=score, label=label)


def in_order(regions: Sequence[DetailRegion], order: RegionOrder) -> list[DetailRegion]:
    """The regions as they are drawn; equal ones keep their places."""
    if order is RegionOrder.GIVEN:
        return list(regions)

    def place(region: DetailRegion) -> float:
        left, top, right, bottom = region.box
        if order is RegionOrder.LEFT_TO_RIGHT:
            return left
        if order is RegionOrder.LARGEST:
            return -(right - left) * (bottom - top)
        width, height = region.size
        return math.hypot((left + right - width) / 2, (top + bottom - height) / 2)

    return sorted(regions, key=place)


def kernel_from_argument(dilation: Any) -> int:
    """The side of the kernel in pixels, negative to shrink.

    Raises:
        RequestError: no whole number, or one out of range.
    """
    kernel = whole(dilation, "dilation")
    if abs(kernel) > _LARGEST_KERNEL:
        raise RequestError(
            f"got dilation {kernel}, expected −{_LARGEST_KERNEL} to {_LARGEST_KERNEL} pixels; set it in this range"
        )
    return kernel


def blur_from_argument(mask_blur: Any) -> float:
    """The standard deviation in pixels.

    Raises:
        RequestError: no number, or one out of range.
    """
    blur = number(mask_blur, "mask_blur")
    if not 0.0 <= blur <= _LARGEST_BLUR:
        raise RequestError(f"got mask_blur {blur:g}, expected 0 to {_LARGEST_BLUR:g} pixels; set it in this range")
    return blur


def _checked_box(box: Any, width: int, height: int) -> Sequence[float]:
    found = numbers(box, "box")
    if len(found) != 4:
        raise RequestError(f"got box {shown(box)}, expected left, top, right and bottom in pixels; give these four")
    left, top, right, bottom = found
    if not (left < right and top < bottom):
        raise RequestError(
            f"got box {_shown(found)}, expected left < right and top < bottom; give left, top, right, bottom"
        )
    if right <= 0 or bottom <= 0 or left >= width or top >= height:
        raise RequestError(
            f"got box {_shown(found)}, which lies outside of the picture of {width}x{height}; give pixels in it"
        )
    return found


def _region_of_mask(mask: Picture, index: int, width: int, height: int) -> DetailRegion:
    size = mask.size if isinstance(mask, Image.Image) else mask.shape[1::-1]
    if tuple(size) != (width, height):
        raise RequestError(
            f"got a mask of {size[0]}x{size[1]} for an image of {width}x{height}, expected equal sizes; resize the mask"
        )
    whole_picture = (0, 0, width, height)
    white = white_places(mask, width, height) > 0.0
    region = DetailRegion(size=(width, height), box=whole_picture, mask=white)._tightened(white, whole_picture)
    if region is None:
        raise RequestError(
            f"got mask {index} without white, expected 128 or more of 255 somewhere; paint what to redraw in white"
        )
    return region


def _moved(mask: Array, box: Box, other: Box) -> Array:
    """A box's mask as another box has it."""
    result = np.zeros((other[3] - other[1], other[2] - other[0]), np.bool_)
    left, top, right, bottom = (
        pick(pair) for pick, pair in zip((max, max, min, min), zip(box, other, strict=True), strict=True)
    )
    result[top - other[1] : bottom - other[1], left - other[0] : right - other[0]] = mask[
        top - box[1] : bottom - box[1], left - box[0] : right - box[0]
    ]
    return result


def _spread(mask: Array, kernel: int) -> Array:
    """Where a square window of so many pixels, around each pixel as OpenCV has it, holds some of a mask."""
    before, after = kernel // 2, kernel - 1 - kernel // 2
    for axis in (0, 1):
        length = mask.shape[axis]
        sums = np.concatenate(
            [np.zeros_like(mask[:1] if axis == 0 else mask[:, :1], np.int64), mask.cumsum(axis)], axis
        )
        start, stop = (np.clip(np.arange(length) + shift, 0, length) for shift in (-before, after + 1))
        mask = np.take(sums, stop, axis) > np.take(sums, start, axis)
    return mask


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, np.number)) and not isinstance(value, bool)


def _shown(box: Sequence[float]) -> str:
    return ",".join(f"{side:g}" for side in box)
