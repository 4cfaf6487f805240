"""The regions of a detail pass: boxes, masks, how they grow, and their order."""

from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from latentrt.engines.errors import RequestError
from latentrt.runtime.pictures.detail.regions import (
    DetailRegion,
    RegionOrder,
    blur_from_argument,
    in_order,
    kernel_from_argument,
    regions_from_boxes,
    regions_from_masks,
)


def whole(region: DetailRegion) -> Any:
    """A region's mask of the whole picture, of 0 and 255."""
    return np.asarray(region.image(0.0))


def blobs(seed: int, width: int = 40, height: int = 30) -> Any:
    """A mask of a few rectangles, some at the picture's edges."""
    random = np.random.default_rng(seed)
    mask = np.zeros((height, width), np.uint8)
    for _ in range(3):
        left, top = random.integers(0, width - 8), random.integers(0, height - 8)
        mask[top : top + random.integers(3, 9), left : left + random.integers(3, 9)] = 255
    return mask


@pytest.mark.parametrize("kernel", [-7, -4, -1, 1, 2, 3, 4, 9, 100])
def test_masks_grow_as_in_opencv(kernel: int) -> None:
    """Squares of any side, at the picture's edges, too; None where nothing is left."""
    square = cv2.getStructuringElement(cv2.MORPH_RECT, (abs(kernel),) * 2)
    for seed in range(6):
        mask = blobs(seed)
        expected = (cv2.dilate if kernel > 0 else cv2.erode)(mask, square)
        (region,) = regions_from_masks(mask, 40, 30)
        grown = region.dilated(kernel)
        if grown is None:
            assert not expected.any()
            continue
        np.testing.assert_array_equal(whole(grown), expected)
        rows, columns = np.nonzero(expected)
        assert grown.box == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)


def test_boxes_are_the_pixels_that_they_touch() -> None:
    """As far as they lie in the picture; one box, several, and arrays."""
    (region,) = regions_from_boxes((3, 4, 10, 9), 20, 12)
    assert region.box == (3, 4, 10, 9)
    assert whole(region).sum() == 7 * 5 * 255
    (region,) = regions_from_boxes([(-5.5, 3.2, 4.1, 90)], 20, 12)
    assert region.box == (0, 3, 5, 12)
    found = regions_from_boxes(np.array([[0, 0, 2, 2], [1, 1, 20, 12]], np.float32), 20, 12)
    assert [one.box for one in found] == [(0, 0, 2, 2), (1, 1, 20, 12)]
    assert regions_from_boxes([], 20, 12) == regions_from_masks([], 20, 12) == []


def test_masks_count_from_one_half() -> None:
    """PIL and arrays, one or several."""
    grey = np.zeros((12, 20), np.uint8)
    grey[2:5, 3:6], grey[8, 8] = 128, 127
    for masks in (Image.fromarray(grey), grey, [grey], grey[None], grey >= 128):
        (region,) = regions_from_masks(masks, 20, 12)
        assert region.box == (3, 2, 6, 5)
    assert len(regions_from_masks(np.stack([grey, grey]), 20, 12)) == 2


def test_order() -> None:
    """ADetailer's, by the boxes; equal ones keep their places."""
    boxes = [(50, 0, 60, 10), (0, 40, 30, 60), (45, 45, 55, 55), (0, 0, 10, 10)]
    regions = regions_from_boxes(boxes, 100, 100)
    ordered = {order: [regions.index(one) for one in in_order(regions, order)] for order in RegionOrder}
    assert ordered == {
        RegionOrder.GIVEN: [0, 1, 2, 3],
        RegionOrder.LEFT_TO_RIGHT: [1, 3, 2, 0],
        RegionOrder.CENTER_TO_EDGE: [2, 1, 0, 3],
        RegionOrder.LARGEST: [1, 0, 2, 3],
    }


def test_blurred_edges_stay_where_they_are() -> None:
    """One half is still at the edge; what is thinner than its blur is not blurred away."""
    (region,) = regions_from_boxes((20, 20, 60, 60), 80, 80)
    soft = np.asarray(region.image(4.0))
    white = soft >= 128
    assert white[24:56, 21:59].all()  # but for the corners
    assert not white[:, :20].any()
    assert not white[:20].any()
    assert 100 < soft[40, 19] < soft[40, 20] < 156
    assert soft[40, 40] == 255
    (thin,) = regions_from_boxes((40, 10, 41, 70), 80, 80)
    np.testing.assert_array_equal(np.asarray(thin.image(9.0)), whole(thin))


REFUSALS: dict[str, Any] = {
    "got boxes 'all', expected a list of (left, top, right, bottom)": lambda: regions_from_boxes("all", 9, 9),
    "got boxes 7, expected": lambda: regions_from_boxes(7, 9, 9),
    "expected left, top, right and bottom": lambda: regions_from_boxes([(1, 2, 3)], 9, 9),
    "got box 5,2,5,4, expected left < right": lambda: regions_from_boxes((5, 2, 5, 4), 9, 9),
    "got box 1,5,4,2, expected": lambda: regions_from_boxes([(1, 5, 4, 2)], 9, 9),
    "lies outside of the picture of 9x9": lambda: regions_from_boxes([(9, 0, 12, 4)], 9, 9),
    "expected a number": lambda: regions_from_boxes([(1, 2, 3, "x")], 9, 9),
    "expected finite numbers": lambda: regions_from_boxes([(1, 2, 3, np.nan)], 9, 9),
    "got a mask of 8x9 for an image of 9x9": lambda: regions_from_masks(np.ones((9, 8), bool), 9, 9),
    "got mask 1 without white": lambda: regions_from_masks(np.stack([np.eye(9), 0 * np.eye(9)]), 9, 9),
    "got masks 'x'": lambda: regions_from_masks("x", 9, 9),
    "got dilation 1.5": lambda: kernel_from_argument(1.5),
    "got dilation 5000": lambda: kernel_from_argument(5000),
    "got mask_blur -1": lambda: blur_from_argument(-1),
    "got mask_blur nan": lambda: blur_from_argument(float("nan")),
}


@pytest.mark.parametrize("words", REFUSALS)
def test_refusals(words: str) -> None:
    """In a sentence."""
    with pytest.raises(RequestError) as refusal:
        REFUSALS[words]()
    assert words in str(refusal.value)
