"""Pictures in and out: conversions, refusals, PNG files and the settings in them."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from latentrt.engines.errors import OutputError, RequestError
from latentrt.runtime.metadata.picture_metadata import PictureMetadata
from latentrt.runtime.pictures.image import (
    images_from_pixels,
    pixels_from_image,
    read_image,
    write_png,
)
from latentrt.runtime.pictures.picture_file import settings_from_parameters

METADATA = PictureMetadata(
    prompt="a cat",
    negative_prompt="",
    num_inference_steps=20,
    guidance_scale=7.5,
    sampler="dpmpp_2m_k",
    sampler_label="DPM++ 2M Karras",
    seed=7,
    batch_index=0,
    width=48,
    height=32,
    model="emoji",
)


def noise_picture(mode: str = "RGB", size: tuple[int, int] = (48, 32)) -> Image.Image:
    """A seeded picture of one mode."""
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 4), np.uint8)
    return Image.fromarray(pixels, "RGBA").convert(mode)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK", "1"])
def test_any_mode_becomes_rgb_in_minus_one_to_one(mode: str) -> None:
    """(3, H, W) float32, equal to Pillow's own conversion."""
    picture = noise_picture(mode)
    pixels = pixels_from_image(picture, 48, 32)
    assert (pixels.shape, pixels.dtype) == ((3, 32, 48), np.float32)
    expected = np.asarray(picture.convert("RGB"), np.float64) / 127.5 - 1.0
    np.testing.assert_allclose(pixels.transpose(1, 2, 0), expected, atol=1e-6)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_is_laid_on_white(mode: str) -> None:
    """A transparent corner is white, whatever colour hides there; the rest keeps its own."""
    layer = Image.new("RGBA", (48, 32), (10, 10, 10, 255))
    layer.paste((0, 0, 0, 0), (0, 0, 8, 8))
    pixels = pixels_from_image(layer.convert(mode), 48, 32)
    np.testing.assert_array_equal(pixels[:, :8, :8], 1.0)
    np.testing.assert_allclose(pixels[:, 20:, 20:], 10 / 127.5 - 1.0, atol=1e-2)


def test_sixteen_bit_grey_is_scaled() -> None:
    """Half of 65535 is half grey, not white."""
    picture = Image.fromarray(np.full((32, 48), 32768, np.uint16))
    np.testing.assert_allclose(pixels_from_image(picture, 48, 32), 0.0, atol=0.01)


@pytest.mark.parametrize("convert", [np.asarray, lambda p: np.asarray(p) / 255.0, lambda p: np.float16(p) / 255])
def test_arrays_equal_the_picture(convert: Callable[[Image.Image], Any]) -> None:
    """uint8 in 0 to 255, and floats of any width in 0 to 1."""
    picture = noise_picture()
    expected = pixels_from_image(picture, 48, 32)
    np.testing.assert_allclose(pixels_from_image(convert(picture), 48, 32), expected, atol=2e-3)


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (np.zeros((32, 32, 3), np.uint8), r"\(32, 32, 3\), expected \(32, 48, 3\)"),
        (np.zeros((2, 32, 48), np.uint8), r"\(2, 32, 48\), expected an array \(height, width, C\)"),
        (np.zeros((32, 48, 2), np.float32), "1, 3 or 4 channels"),
        (np.zeros((2, 32, 48, 3), np.float32), "one picture"),
        (np.full((32, 48, 3), np.nan), "NaN"),
        (np.full((32, 48, 3), 1.5), "outside"),
        (np.full((32, 48, 3), -1.1), "outside"),
        (np.full((32, 48, 3), 200, np.int64), "int64"),
    ],
)
def test_other_arrays_are_refused(array: Any, reason: str) -> None:
    """Shape and range are named."""
    with pytest.raises(RequestError, match=reason):
        pixels_from_image(array, 48, 32)


def test_pixels_become_pictures_and_return() -> None:
    """Eight bits are kept exactly."""
    picture = noise_picture()
    back = images_from_pixels(np.asarray(picture, np.float32)[None] / np.float32(255.0))[0]
    np.testing.assert_array_equal(np.asarray(back), np.asarray(picture))


def test_reads_pictures_upright(tmp_path: Path) -> None:
    """The EXIF orientation of cameras is applied."""
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise
    noise_picture().save(tmp_path / "turned.jpg", exif=exif)
    assert read_image(tmp_path / "turned.jpg").size == (32, 48)


@pytest.mark.parametrize(
    "prompt",
    ["a cat", "two\nlines", 'Steps: 3, "quoted", a:b, 100%', "café 港 🚢 קטן", "x" * 5000, ""],
    ids=["plain", "lines", "punctuation", "unicode", "long", "empty"],
)
@pytest.mark.parametrize("negative", ["", "blurry,\nlow: 港"])
@pytest.mark.parametrize("model", ["emoji", 'a: "model", odd'])
def test_png_carries_settings_that_a1111_reads(tmp_path: Path, prompt: str, negative: str, model: str) -> None:
    """Whatever is in the prompt, the settings come back."""
    metadata = replace(
        METADATA, prompt=prompt, negative_prompt=negative, model=model, strength=0.5, clip_skip=1, batch_index=1
    )
    write_png(tmp_path / "cat.png", noise_picture(), metadata.parameters())
    with Image.open(tmp_path / "cat.png") as image:
        found = settings_from_parameters(image.text["parameters"])  # type: ignore[attr-defined]
        np.testing.assert_array_equal(np.asarray(image), np.asarray(noise_picture()))
    expected = {
        "Prompt": prompt,
        "Negative prompt": negative,
        "Steps": "20",
        "Sampler": "DPM++ 2M Karras",
        "CFG scale": "7.5",
        "Seed": "7",
        "Size": "48x32",
        "Model": model,
        "Denoising strength": "0.5",
        "Clip skip": "2",
        "Batch pos": "1",
    }
    assert {key: found[key] for key in expected} == expected
    assert found["Version"].startswith("latentrt ")


def test_a_failed_write_leaves_the_old_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And no temporary file."""
    path = tmp_path / "cat.png"
    path.write_bytes(b"an earlier picture")

    def fail(self: Image.Image, file: Path, **_: object) -> None:
        Path(file).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(OutputError, match="disk is full"):
        write_png(path, noise_picture(), METADATA.parameters())
    assert path.read_bytes() == b"an earlier picture"
    assert list(tmp_path.iterdir()) == [path]
