"""Masks and their pictures: what is refused, what counts as painted, and that kept pixels come back exactly."""

from typing import Any

import numpy as np
import pytest
from PIL import Image

from latentrt.engines.bundle.records.latent_space import LatentSpace
from latentrt.engines.errors import RequestError
from latentrt.engines.spec import Array
from latentrt.runtime.pictures.image import images_from_pixels
from latentrt.runtime.pictures.mask import (
    inpaint_input_from_pictures,
    masks_from_argument,
    paste_back,
)

WIDTH, HEIGHT = 48, 32


def photo(size: tuple[int, int] = (WIDTH, HEIGHT), seed: int = 0) -> Image.Image:
    """Noise: every pixel's change would show."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8))


def grey_mask(size: tuple[int, int] = (WIDTH, HEIGHT)) -> Image.Image:
    """A ramp over all values from 0 to 255."""
    return Image.fromarray(np.broadcast_to(np.linspace(0, 255, size[0]).astype(np.uint8), size[::-1]).copy())


def drawn(count: int = 1, size: tuple[int, int] = (WIDTH, HEIGHT)) -> Array:
    """Pictures as the decoder returns them."""
    return np.random.default_rng(1).uniform(0, 1, (count, size[1], size[0], 3)).astype(np.float32)


@pytest.mark.parametrize("crop", [None, 0, 5])
@pytest.mark.parametrize("mask", ["grey", "binary"])
def test_kept_pixels_come_back_exactly(crop: int | None, mask: str) -> None:
    """Below one half the pasted picture is the source, bit for bit in floats and in 8 bits; above it is drawn."""
    size = (WIDTH, HEIGHT) if crop is None else (101, 75)
    source, layer = photo(size), grey_mask(size)
    if mask == "binary":
        layer = layer.point(lambda value: 255 * (value > 140))
    inputs = inpaint_input_from_pictures([source], [layer], WIDTH, HEIGHT, padding_mask_crop=crop)
    (pasted,) = paste_back(inputs, drawn())
    kept = np.asarray(layer) < 128
    expected = np.asarray(source)
    assert (pasted.dtype, pasted.shape) == (np.float32, expected.shape)
    np.testing.assert_array_equal(pasted[kept], (expected / np.float32(255.0)).astype(np.float32)[kept])
    eight_bit = np.asarray(images_from_pixels(pasted[None])[0])
    np.testing.assert_array_equal(eight_bit[kept], expected[kept])
    white = np.asarray(layer) == 255
    assert (np.abs(eight_bit[white].astype(int) - expected[white]) > 2).mean() > 0.9


def test_float_sources_come_back_exactly() -> None:
    """Arrays are not rounded to 8 bits on the way, with a crop or without."""
    source = drawn()[0]
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[10:20, 10:30] = True
    for crop in (None, 3):
        inputs = inpaint_input_from_pictures([source], [mask], WIDTH, HEIGHT, padding_mask_crop=crop)
        (pasted,) = paste_back(inputs, 1 - drawn())
        np.testing.assert_array_equal(pasted[~mask], source[~mask])
        assert not np.array_equal(pasted[mask], source[mask])


def test_the_seam_of_a_soft_mask_has_no_step() -> None:
    """Across a ramp the share of the drawn picture grows from nothing at one half to all of it at white."""
    black, white = Image.new("RGB", (256, 32)), np.ones((1, 32, 256, 3), np.float32)
    inputs = inpaint_input_from_pictures([black], [grey_mask((256, 32))], 256, 32)
    row = paste_back(inputs, white)[0][0, :, 0]
    assert row[127] == 0.0
    assert row[255] == 1.0
    assert np.diff(row).max() < 0.01


def test_without_anything_painted_the_source_comes_back() -> None:
    """A black mask without a crop is legal: nothing is redrawn."""
    inputs = inpaint_input_from_pictures([photo()], [Image.new("L", (WIDTH, HEIGHT))], WIDTH, HEIGHT)
    assert inputs.mask.max() == 0.0
    np.testing.assert_array_equal(inputs.masked_pixels, inputs.pixels)
    np.testing.assert_array_equal(images_from_pixels(paste_back(inputs, drawn())[0][None])[0], photo())


def test_one_mask_serves_all_pictures_and_pictures_repeat() -> None:
    """M is the longer of the two; drawn picture i returns to picture i modulo M."""
    mask = Image.new("L", (WIDTH, HEIGHT))
    inputs = inpaint_input_from_pictures([photo(seed=0), photo(seed=1)], [mask], WIDTH, HEIGHT)
    assert inputs.pixels.shape == (2, 3, HEIGHT, WIDTH)
    assert inputs.mask.shape == (2, 1, HEIGHT, WIDTH)
    back = [images_from_pixels(picture[None])[0] for picture in paste_back(inputs, drawn(4))]
    for index, picture in enumerate(back):
        np.testing.assert_array_equal(picture, photo(seed=index % 2))
    assert len(inpaint_input_from_pictures([photo()], [mask, mask, mask], WIDTH, HEIGHT).overlays) == 3


def test_masked_pixels_are_mid_grey_where_redrawn() -> None:
    """0 on the scale from −1 to 1."""
    inputs = inpaint_input_from_pictures([photo()], [grey_mask()], WIDTH, HEIGHT)
    redrawn = np.broadcast_to(inputs.mask > 0.5, inputs.pixels.shape)
    assert (inputs.masked_pixels[redrawn] == 0.0).all()
    np.testing.assert_array_equal(inputs.masked_pixels[~redrawn], inputs.pixels[~redrawn])


def test_masks_of_any_kind_mean_the_same() -> None:
    """PIL modes and arrays of one mask."""
    painted = np.zeros((HEIGHT, WIDTH), bool)
    painted[8:20, 5:40] = True
    grey = Image.fromarray(painted.astype(np.uint8) * 255)
    strokes = np.zeros((HEIGHT, WIDTH, 4), np.uint8)
    strokes[..., :3] = 255  # white everywhere, but seen only where painted
    strokes[painted, 3] = 255
    kinds: dict[str, Any] = {mode: grey.convert(mode) for mode in ("1", "L", "P", "RGB", "RGBA", "LA", "CMYK", "I;16")}
    kinds["I;16"] = Image.fromarray(painted.astype(np.uint16) * 65535)
    kinds |= {
        "strokes on nothing": Image.fromarray(strokes, "RGBA"),
        "bool": painted,
        "uint8": np.asarray(grey),
        "float": painted.astype(np.float64),
        "one channel": painted[..., None].astype(np.float32),
        "one half": np.where(painted, np.float32(0.5), np.float32(0.4999)),
    }
    for name, mask in kinds.items():
        inputs = inpaint_input_from_pictures([photo()], [mask], WIDTH, HEIGHT)
        np.testing.assert_array_equal(inputs.mask[0, 0], painted, err_msg=name)


def test_the_latent_mask_is_one_value_in_f() -> None:
    """(M, 1, H/f, W/f) float32."""
    record = LatentSpace(
        channels=4, scaling_factor=1.0, shift_factor=0.0, height_factor=8, width_factor=8, tile_pixels=64
    )
    inputs = inpaint_input_from_pictures([photo((64, 32))], [grey_mask((64, 32))], 64, 32)
    mask = record.mask(inputs.mask)
    assert (mask.shape, mask.dtype) == ((1, 1, 4, 8), np.float32)
    np.testing.assert_array_equal(mask[0, 0, 0], inputs.mask[0, 0, 0, ::8])


GREY = np.zeros((HEIGHT, WIDTH), np.float32)
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no masks": ({"masks": []}, "0 masks"),
    "masks and images that do not pair": ({"images": [photo()] * 3, "masks": [grey_mask()] * 2}, "2 masks for 3"),
    "another size": ({"masks": [grey_mask((32, 32))]}, "32x32 for an image of 48x32"),
    "another size, array": ({"masks": [GREY[:8]]}, "48x8 for an image of 48x32"),
    "NaN": ({"masks": [GREY * np.nan]}, "NaN"),
    "above 1": ({"masks": [GREY + 2]}, r"outside \[0, 1\]"),
    "below 0": ({"masks": [GREY - 1]}, r"outside \[0, 1\]"),
    "zeros and ones in 8 bits": ({"masks": [np.eye(HEIGHT, WIDTH, dtype=np.uint8)]}, "zeros and ones"),
    "whole numbers": ({"masks": [GREY.astype(np.int64)]}, "int64"),
    "three channels": ({"masks": [np.zeros((HEIGHT, WIDTH, 3), np.uint8)]}, r"\(32, 48, 3\)"),
    "empty": ({"masks": [GREY[:0]]}, r"\(0, 48\)"),
    "text": ({"masks": ["mask.png"]}, r"got a mask \(\)"),
    "floats in PIL": ({"masks": [Image.fromarray(GREY)]}, "mode 'F'"),
    "32 bits in PIL": ({"masks": [Image.fromarray(GREY.astype(np.int32))]}, "mode 'I'"),
    "LAB": ({"masks": [Image.new("LAB", (WIDTH, HEIGHT))]}, "mode 'LAB'"),
    "an image of two channels": ({"images": [np.stack([GREY] * 2, -1)], "masks": [GREY]}, r"got image \(32, 48, 2\)"),
    "text as image": ({"images": ["cat.png"]}, "got image 'cat.png'"),
    "an array image of another size": ({"images": [np.zeros((8, 8, 3))], "masks": [GREY[:8, :8]]}, "resize it"),
    "a crop around nothing": ({"masks": [GREY], "padding_mask_crop": 4}, "brightest value is 0"),
    "a crop around too little": ({"masks": [GREY + 0.4], "padding_mask_crop": 4}, "brightest value is 102"),
    "negative padding": ({"padding_mask_crop": -1}, "padding_mask_crop -1"),
    "padding in words": ({"padding_mask_crop": "32"}, "padding_mask_crop '32'"),
    "padding with a fraction": ({"padding_mask_crop": 1.5}, "1.5"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str) -> None:
    """One sentence that names what was got."""
    changes, fragment = REFUSED[case]
    arguments = {"images": [photo()], "masks": [grey_mask()], **changes}
    with pytest.raises(RequestError, match=fragment) as raised:
        inpaint_input_from_pictures(width=WIDTH, height=HEIGHT, **arguments)
    assert "; " in str(raised.value)


@pytest.mark.parametrize("size", [(1, 400), (400, 1), (1, 1)])
def test_thin_pictures_can_be_cropped(size: tuple[int, int]) -> None:
    """A line of pixels is enlarged as any other."""
    mask = Image.new("L", size, 255)
    inputs = inpaint_input_from_pictures([photo(size)], [mask], WIDTH, HEIGHT, padding_mask_crop=0)
    assert inputs.mask.shape == (1, 1, HEIGHT, WIDTH)
    assert paste_back(inputs, drawn())[0].shape == (size[1], size[0], 3)


def test_one_mask_or_several() -> None:
    """What a caller may give as ``mask_image``."""
    mask = grey_mask()
    assert masks_from_argument(mask) == [mask]
    assert masks_from_argument((mask, GREY)) == [mask, GREY]
    assert [one.shape for one in masks_from_argument(GREY)] == [(HEIGHT, WIDTH)]
    for wrong in (None, [], "mask.png", ["mask.png"], 3):
        with pytest.raises(RequestError, match="got mask_image"):
            masks_from_argument(wrong)
