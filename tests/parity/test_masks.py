"""Masks, crops and the way back against diffusers' own image processors."""

from typing import Any

import numpy as np
import pytest
import torch
from diffusers.image_processor import VaeImageProcessor
from PIL import Image, ImageDraw, ImageFilter

from latentrt.engines.bundle.records.latent_space import LatentSpace
from latentrt.runtime.pictures.crop import cover, crop_region, fit_and_fill
from latentrt.runtime.pictures.image import images_from_pixels
from latentrt.runtime.pictures.mask import inpaint_input_from_pictures, paste_back

FACTOR = 8
SIZES = [(64, 64), (96, 64), (64, 128)]  # the model's
PIXELS_TOLERANCE = 2e-7  # one rounding of float32 at 1.0: the scale to [−1, 1] in another order


def processor(**settings: Any) -> VaeImageProcessor:
    """As StableDiffusionInpaintPipeline makes its own."""
    return VaeImageProcessor(vae_scale_factor=FACTOR, **settings)


def mask_processor() -> VaeImageProcessor:
    """The pipeline's second one."""
    return processor(do_normalize=False, do_binarize=True, do_convert_grayscale=True)


def pair(random: np.random.Generator, *, soft: bool) -> tuple[Image.Image, Image.Image]:
    """A picture of noise and a mask with an ellipse somewhere."""
    width, height = (int(size) for size in random.integers(24, 200, 2))
    image = Image.fromarray(random.integers(0, 256, (height, width, 3), np.uint8))
    mask = Image.new("L", (width, height))
    left, top = int(random.integers(0, width - 8)), int(random.integers(0, height - 8))
    corner = int(random.integers(left + 4, width)), int(random.integers(top + 4, height))
    ImageDraw.Draw(mask).ellipse((left, top, *corner), fill=255)
    return image, mask.filter(ImageFilter.GaussianBlur(3)) if soft else mask


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGB"])
@pytest.mark.parametrize("size", SIZES)
def test_masks_and_pictures_of_the_whole(mode: str, size: tuple[int, int]) -> None:
    """Without a crop: resized in the mask's own mode, grey, binary; equal in every pixel."""
    random = np.random.default_rng(0)
    for _ in range(8):
        image, mask = pair(random, soft=True)
        mask = mask.convert(mode)
        inputs = inpaint_input_from_pictures([image], [mask], *size)
        expected = mask_processor().preprocess(mask, height=size[1], width=size[0]).numpy()
        np.testing.assert_array_equal(inputs.mask, expected)
        pixels = processor().preprocess(image, height=size[1], width=size[0]).numpy()
        np.testing.assert_allclose(inputs.pixels, pixels, atol=PIXELS_TOLERANCE)
        np.testing.assert_allclose(inputs.masked_pixels, pixels * (expected < 0.5), atol=PIXELS_TOLERANCE)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("padding", [0, 7, 300])
@pytest.mark.parametrize("mode", ["L", "1", "P", "RGB"])
def test_crops(size: tuple[int, int], padding: int, mode: str) -> None:
    """The region, both pictures that fill the model's size, and the resizing back: equal in every pixel."""
    random = np.random.default_rng(padding)
    for index in range(12):
        image, mask = pair(random, soft=index % 2 == 0)
        mask = mask.convert(mode)
        if np.asarray(mask.convert("L")).max() < 128:
            continue
        box = mask_processor().get_crop_region(mask, *size, pad=padding)
        assert crop_region(mask.convert("L"), *size, padding) == box
        settings = {"height": size[1], "width": size[0], "crops_coords": box, "resize_mode": "fill"}
        inputs = inpaint_input_from_pictures([image], [mask], *size, padding_mask_crop=padding)
        np.testing.assert_array_equal(inputs.mask, mask_processor().preprocess(mask, **settings).numpy())
        expected = processor().preprocess(image, **settings).numpy()
        np.testing.assert_allclose(inputs.pixels, expected, atol=PIXELS_TOLERANCE)
        filled = fit_and_fill(image.crop(box), *size)
        back = processor().resize(filled, height=box[3] - box[1], width=box[2] - box[0], resize_mode="crop")
        np.testing.assert_array_equal(cover(filled, box[2] - box[0], box[3] - box[1]), back)


def test_crop_regions_of_odd_masks() -> None:
    """Single pixels, corners, lines and full masks in pictures of any aspect ratio."""
    random = np.random.default_rng(1)
    for _ in range(400):
        height, width = (int(size) for size in random.integers(1, 90, 2))
        mask = np.zeros((height, width), np.uint8)
        rows, columns = np.sort(random.integers(0, height, 2)), np.sort(random.integers(0, width, 2))
        mask[rows[0] : rows[1] + 1, columns[0] : columns[1] + 1] = random.integers(1, 256)
        size, padding = SIZES[int(random.integers(3))], int(random.integers(0, 50))
        expected = mask_processor().get_crop_region(Image.fromarray(mask), *size, pad=padding)
        assert crop_region(Image.fromarray(mask), *size, padding) == expected


def test_pasting_back_a_binary_mask() -> None:
    """Equal to ``apply_overlay`` in every pixel, drawn or kept."""
    random = np.random.default_rng(2)
    for _ in range(20):
        image, mask = pair(random, soft=False)
        inputs = inpaint_input_from_pictures([image], [mask], 64, 64, padding_mask_crop=9)
        drawn = random.uniform(0, 1, (1, 64, 64, 3)).astype(np.float32)
        box = crop_region(mask, 64, 64, 9)
        expected = processor().apply_overlay(mask, image, images_from_pixels(drawn)[0], box)
        np.testing.assert_array_equal(images_from_pixels(paste_back(inputs, drawn)[0][None])[0], expected)


def test_where_the_reference_changes_kept_pixels() -> None:
    """A soft mask: its overlay mixes the drawn picture into pixels below one half, ours does not."""
    image, mask = pair(np.random.default_rng(3), soft=True)
    inputs = inpaint_input_from_pictures([image], [mask], 64, 64, padding_mask_crop=9)
    drawn = np.zeros((1, 64, 64, 3), np.float32)
    overlay = processor().apply_overlay(mask, image, images_from_pixels(drawn)[0], crop_region(mask, 64, 64, 9))
    kept = np.asarray(mask) < 128
    assert not np.array_equal(np.asarray(overlay)[kept], np.asarray(image)[kept])
    ours = np.asarray(images_from_pixels(paste_back(inputs, drawn)[0][None])[0])
    np.testing.assert_array_equal(ours[kept], np.asarray(image)[kept])


@pytest.mark.parametrize("pixels", [1, 2, 4, 8])
def test_the_latent_mask(pixels: int) -> None:
    """Equal to torch's nearest interpolation."""
    record = LatentSpace(
        channels=4, scaling_factor=1.0, shift_factor=0.0, height_factor=pixels, width_factor=pixels, tile_pixels=64
    )
    image, mask = pair(np.random.default_rng(4), soft=True)
    inputs = inpaint_input_from_pictures([image], [mask], 96, 64)
    expected = torch.nn.functional.interpolate(torch.from_numpy(inputs.mask), size=(64 // pixels, 96 // pixels))
    np.testing.assert_array_equal(record.mask(inputs.mask), expected.numpy())
