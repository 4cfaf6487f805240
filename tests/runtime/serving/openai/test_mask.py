"""Masks whose transparent pixels are redrawn."""

import numpy as np
import pytest
from PIL import Image

from latentrt.engines.errors import RequestError
from latentrt.runtime.serving.http.openai.mask import mask_from_transparency, own_transparency


def picture_with_alpha(alpha: list[int]) -> Image.Image:
    """One row of grey pixels."""
    return Image.fromarray(np.array([[(90, 90, 90, one) for one in alpha]], np.uint8))


def test_what_is_more_than_half_transparent_is_redrawn() -> None:
    """White in the mask; the rest is kept."""
    picture = picture_with_alpha([0, 127, 128, 255])
    for mask in (own_transparency(picture), mask_from_transparency(picture, Image.new("RGB", (4, 1)))):
        assert mask is not None
        assert mask.mode == "L"
        assert np.asarray(mask).tolist() == [[255, 255, 0, 0]]


def test_a_palettes_transparency_counts() -> None:
    """As optimized PNGs have it."""
    palette = Image.new("P", (2, 1), 0)
    palette.putpalette([0, 0, 0, 255, 255, 255])
    palette.putpixel((1, 0), 1)
    palette.info["transparency"] = 1
    mask = own_transparency(palette)
    assert mask is not None
    assert np.asarray(mask).tolist() == [[0, 255]]


@pytest.mark.parametrize("picture", [Image.new("RGB", (4, 1)), Image.new("L", (4, 1)), picture_with_alpha([255, 200])])
def test_pictures_without_transparent_pixels_bring_no_mask(picture: Image.Image) -> None:
    """They are drawn over as a whole."""
    assert own_transparency(picture) is None


def test_masks_that_cannot_be_meant_are_refused() -> None:
    """Black and white without alpha, and another size."""
    image = Image.new("RGB", (4, 1))
    with pytest.raises(RequestError, match="without transparent pixels"):
        mask_from_transparency(Image.new("L", (4, 1), 255), image)
    with pytest.raises(RequestError, match="a mask of 2x1 for an image of 4x1"):
        mask_from_transparency(picture_with_alpha([0, 0]), image)
