"""Control pictures: each is what OpenCV, diffusers' documentation, A1111 or controlnet-aux make of the same picture."""

import sys
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

import latentrt
from latentrt import RequestError, prepare
from latentrt.engines.spec import Array


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    """Smooth colours with shapes on them, 150×100."""
    colours = Image.fromarray(np.random.default_rng(3).integers(0, 256, (8, 12, 3), np.uint8))
    drawn = np.array(colours.resize((150, 100), Image.Resampling.BICUBIC))
    cv2.circle(drawn, (60, 50), 30, (250, 240, 20), -1)
    cv2.line(drawn, (5, 90), (140, 10), (10, 0, 90), 3)
    return Image.fromarray(drawn)


def array(image: Image.Image) -> Array:
    """A map's pixels; maps are in RGB."""
    assert image.mode == "RGB"
    return np.asarray(image)


@pytest.mark.parametrize("thresholds", [(), (20, 60), (150, 150.5), (0, 0), (400, 900)])
def test_canny_is_opencvs(picture: Image.Image, thresholds: tuple[float, ...]) -> None:
    """White on black in three channels, as in diffusers' documentation; 100 and 200 if nothing is said."""
    edges = cv2.Canny(np.asarray(picture), *(thresholds or (100, 200)))
    np.testing.assert_array_equal(array(prepare.canny(picture, *thresholds)), np.stack([edges] * 3, axis=-1))
    assert set(np.unique(edges)) == {0, 255}


def test_the_largest_threshold_is_the_steepest_change() -> None:
    """No picture's gradient is above 1530, and one reaches it."""
    corner = np.zeros((3, 3), np.float32)
    corner[[0, 0, 1], [0, 1, 0]] = 255
    steepest = abs(cv2.Sobel(corner, -1, 1, 0)[1, 1]) + abs(cv2.Sobel(corner, -1, 0, 1)[1, 1])
    assert steepest == 1530
    assert not array(prepare.canny(Image.effect_noise((64, 64), 200), 1530, 1530)).any()


@pytest.mark.parametrize(
    ("size", "resolution", "expected"),
    [
        ((150, 100), 128, (192, 128)),
        ((100, 150), 96, (128, 128)),  # 1.5 and 2.25 times 64
        ((100, 250), 64, (64, 128)),  # 1 and 2.5 times: halves become even
        ((150, 100), None, (128, 128)),
        ((20, 200), None, (64, 192)),  # no side is lost
    ],
)
def test_tile_is_the_picture_in_multiples_of_64(
    picture: Image.Image, size: tuple[int, int], resolution: int | None, expected: tuple[int, int]
) -> None:
    """By Lanczos, both sides by one factor and then rounded: so the tile net's card resizes."""
    source = picture.resize(size)
    tiled = prepare.tile(source, resolution=resolution)
    assert tiled.size == expected
    np.testing.assert_array_equal(array(tiled), np.asarray(source.resize(expected, Image.Resampling.LANCZOS)))


def test_tile_drops_details(picture: Image.Image) -> None:
    """Shrunk as OpenCV shrinks by areas, and enlarged again; or blurred."""
    tiled = prepare.tile(picture, resolution=128)
    small = cv2.resize(np.asarray(tiled), (48, 32), interpolation=cv2.INTER_AREA)
    expected = Image.fromarray(small).resize((192, 128), Image.Resampling.LANCZOS)
    found = prepare.tile(picture, resolution=128, downscale=4)
    np.testing.assert_allclose(array(found), np.asarray(expected, np.float32), atol=4)  # roundings
    blurred = prepare.tile(picture, resolution=128, blur=3)
    np.testing.assert_array_equal(array(blurred), cv2.GaussianBlur(np.asarray(tiled), (0, 0), 3.0))


def test_inpaint_is_diffusers_condition(picture: Image.Image) -> None:
    """−1 where the mask is above one half, and else the picture from 0 to 1, bit for bit."""
    mask = Image.fromarray(np.linspace(0, 255, 150 * 100).reshape(100, 150).astype(np.uint8))
    expected = np.asarray(picture).astype(np.float32) / 255.0
    expected[np.asarray(mask).astype(np.float32) / 255.0 > 0.5] = -1.0
    found = prepare.inpaint(picture, mask)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(prepare.inpaint(np.asarray(picture), np.asarray(mask) >= 128), expected)


def test_inpaint_resizes_picture_and_mask(picture: Image.Image) -> None:
    """−1 stays −1: they are resized before they are put together."""
    mask = Image.new("L", picture.size)
    mask.paste(255, (0, 0, 75, 100))
    found = prepare.inpaint(picture, mask, resolution=64)
    assert found.shape == (64, 128, 3)
    assert (found[:, :63] == -1.0).all()
    assert found[:, 65:].min() >= 0.0
    np.testing.assert_array_equal(found, prepare.inpaint(np.asarray(picture), mask, resolution=64))


def test_palette_is_diffusers() -> None:
    """Eight by eight fields of 64 pixels for 512×512, as its documentation prepares T2I-Adapter's colour."""
    source = Image.fromarray(np.random.default_rng(1).integers(0, 256, (512, 512, 3), np.uint8))
    expected = source.resize((8, 8)).resize((512, 512), resample=Image.Resampling.NEAREST)
    np.testing.assert_array_equal(array(prepare.palette(source)), np.asarray(expected))


def test_palette_of_any_number_and_size(picture: Image.Image) -> None:
    """So many colours at most, in the picture's size."""
    found = prepare.palette(picture, cells=3)
    assert found.size == picture.size
    assert len(np.unique(array(found).reshape(-1, 3), axis=0)) <= 9


@pytest.mark.parametrize("sigma", [(), (0.7,), (20,)])
def test_blur_is_opencvs(picture: Image.Image, sigma: tuple[float, ...]) -> None:
    """Nine pixels, A1111's default, if nothing is said."""
    expected = cv2.GaussianBlur(np.asarray(picture), (0, 0), *(sigma or (9.0,)))
    np.testing.assert_array_equal(array(prepare.blur(picture, *sigma)), expected)


@pytest.mark.parametrize("level", [0, 127, 200, 255])
def test_threshold_is_a1111s(picture: Image.Image, level: int) -> None:
    """White where the darkest channel is above the level: what has a colour counts as dark."""
    expected = np.where(np.asarray(picture).min(axis=2) > level, 255, 0)
    np.testing.assert_array_equal(array(prepare.threshold(picture, level)), np.stack([expected] * 3, axis=-1))


def test_threshold_of_grey_is_opencvs(picture: Image.Image) -> None:
    """127 if nothing is said."""
    grey = picture.convert("L")
    _, expected = cv2.threshold(np.asarray(grey), 127, 255, cv2.THRESH_BINARY)
    np.testing.assert_array_equal(array(prepare.threshold(grey))[..., 0], expected)


def test_invert_is_the_negative(picture: Image.Image) -> None:
    """Twice is the picture."""
    np.testing.assert_array_equal(array(prepare.invert(picture)), 255 - np.asarray(picture))
    np.testing.assert_array_equal(array(prepare.invert(prepare.invert(picture))), np.asarray(picture))


@pytest.mark.parametrize(("scale", "seed"), [(256, 0), (16, 5)])
def test_shuffle_is_controlnet_auxs(picture: Image.Image, scale: int, seed: int) -> None:
    """Its flow: two disks of noise, bicubic over a grid, from NumPy's global seed."""
    height, width = 100, 150
    np.random.seed(seed)
    disks = []
    for side in (width, height):
        noise = np.random.uniform(low=0, high=1, size=(height // scale + 2, width // scale + 2, 1))
        noise = cv2.resize(noise, (width + 2 * scale, height + 2 * scale), interpolation=cv2.INTER_CUBIC)
        noise = noise[scale : scale + height, scale : scale + width]
        noise = (noise - noise.min()) / (noise - noise.min()).max()
        disks.append(noise[:, :, None] * float(side - 1))
    flow = np.concatenate(disks, axis=2).astype(np.float32)
    expected = cv2.remap(np.asarray(picture), flow, None, cv2.INTER_LINEAR)
    found = array(prepare.shuffle(picture, scale, seed))
    np.testing.assert_array_equal(found, expected)
    assert (found != array(prepare.shuffle(picture, scale, seed + 1))).any()


MAPS: dict[str, Callable[..., Any]] = {
    name: getattr(prepare, name) for name in ("canny", "tile", "palette", "blur", "threshold", "invert", "shuffle")
}


def with_palette(grey: Array) -> Image.Image:
    """Mode P, whose numbers mean the negative grey."""
    image = Image.fromarray(255 - grey, "P")
    image.putpalette([value for value in range(255, -1, -1) for _ in range(3)])
    return image


FORMS: dict[str, Callable[[Image.Image], Any]] = {
    "grey": lambda grey: grey.convert("L"),
    "palette": lambda grey: with_palette(np.asarray(grey.convert("L"))),
    "16 bits": lambda grey: Image.fromarray(np.asarray(grey.convert("L")).astype(np.uint16) * 257),
    "RGBA": lambda grey: grey.convert("RGBA"),
    "array": np.asarray,
    "floats": lambda grey: np.asarray(grey, np.float32) / 255,
    "channels first": lambda grey: np.moveaxis(np.asarray(grey), -1, 0),
    "one of a batch": lambda grey: np.asarray(grey)[None],
    "array of grey": lambda grey: np.asarray(grey.convert("L")),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["canny", "tile", "invert"])
def test_a_picture_is_taken_in_every_form(picture: Image.Image, name: str, form: str) -> None:
    """The map is that of the same picture in RGB."""
    grey = picture.convert("L").convert("RGB")
    np.testing.assert_array_equal(array(MAPS[name](FORMS[form](grey))), array(MAPS[name](grey)))


def test_transparency_is_laid_on_white(picture: Image.Image) -> None:
    """Whatever colour hides there, and in the array for inpainting, too."""
    layer = picture.convert("RGBA")
    layer.putalpha(Image.new("L", picture.size, 0))
    white = Image.new("RGB", picture.size, "white")
    for make in MAPS.values():
        np.testing.assert_array_equal(array(make(layer)), array(make(white)))
    np.testing.assert_array_equal(prepare.inpaint(layer, np.zeros((100, 150), bool)), 1.0)


@pytest.mark.parametrize("name", sorted(MAPS))
def test_resolution_resizes_first(picture: Image.Image, name: str) -> None:
    """The map is that of the picture in that size; the picture itself is left as it is."""
    before = picture.tobytes()
    resized = picture.resize((128, 64), Image.Resampling.LANCZOS)
    np.testing.assert_array_equal(array(MAPS[name](picture, resolution=64)), array(MAPS[name](resized)))
    assert picture.tobytes() == before


@pytest.mark.parametrize("size", [(1, 1), (1, 70), (70, 1), (2, 3)])
def test_smallest_pictures(size: tuple[int, int]) -> None:
    """Every map but the tile has their size."""
    image = Image.new("RGB", size, "red")
    for name, make in MAPS.items():
        assert make(image).size == ((64, 64) if name == "tile" else size), name


DOT = Image.new("RGB", (64, 64))
MASK = Image.new("L", (64, 64), 255)


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        (lambda: prepare.canny(DOT, 200, 100), "low 200 and high 100, .*; swap them"),
        (lambda: prepare.canny(DOT, -1, 100), "low -1 and high 100, expected 0 <= low <= high <= 1530"),
        (lambda: prepare.canny(DOT, 100, 1531), "high 1531"),
        (lambda: prepare.canny(DOT, float("nan")), "low nan"),
        (lambda: prepare.canny(DOT, "a lot"), "got low 'a lot', expected a number"),
        (lambda: prepare.tile(DOT, downscale=0.5), "downscale 0.5, expected 1 to 64"),
        (lambda: prepare.tile(DOT, blur=-1), "blur -1, expected 0 to 256"),
        (lambda: prepare.tile(Image.new("L", (1, 30000)), resolution=128), r"would become 128x3840000, .*crop it"),
        (lambda: prepare.invert(DOT, resolution=63), "resolution 63, expected 64 to 8192"),
        (lambda: prepare.invert(DOT, resolution=64.5), "resolution 64.5, expected a whole number"),
        (lambda: prepare.palette(DOT, 0), "got 0 cells, expected 1 to 512"),
        (lambda: prepare.blur(DOT, 0), "sigma 0, expected above 0 and up to 256"),
        (lambda: prepare.blur(DOT, float("inf")), "sigma inf"),
        (lambda: prepare.threshold(DOT, 256), "level 256, expected 0 to 255"),
        (lambda: prepare.threshold(DOT, True), "level True"),
        (lambda: prepare.shuffle(DOT, 0), "scale 0, expected 1 to 1024"),
        (lambda: prepare.shuffle(DOT, seed=-1), "seed -1"),
        (lambda: prepare.shuffle(Image.new("L", (32767, 1))), "sides up to 32766"),
        (lambda: prepare.invert("cat.png"), "'cat.png', expected a PIL picture or an array"),
        (lambda: prepare.invert(None), "None, expected a PIL picture"),
        (lambda: prepare.invert([DOT, DOT]), "a list of 2 pictures, expected one"),
        (lambda: prepare.invert(np.zeros((2, 8, 8, 3), np.uint8)), "expected one picture"),
        (lambda: prepare.invert(np.zeros((8, 8, 2), np.uint8)), "1, 3 or 4 channels"),
        (lambda: prepare.invert(np.zeros((0, 8, 3), np.uint8)), r"\(0, 8, 3\)"),
        (lambda: prepare.invert(Image.new("RGB", (0, 8))), "an empty picture of 0x8"),
        (lambda: prepare.invert(Image.new("F", (8, 8))), "mode 'F'"),
        (lambda: prepare.inpaint(DOT, None), "mask_image None"),
        (lambda: prepare.inpaint(DOT, [MASK, MASK]), "got 2 masks, expected one"),
        (lambda: prepare.inpaint(DOT, MASK.resize((8, 8))), "a mask of 8x8 for an image of 64x64"),
        (lambda: prepare.inpaint("cat.png", MASK), "'cat.png'"),
    ],
)
def test_refusals(call: Callable[[], Any], reason: str) -> None:
    """Got, expected, what to do."""
    with pytest.raises(RequestError, match=reason):
        call()


def test_without_opencv(picture: Image.Image, monkeypatch: pytest.MonkeyPatch) -> None:
    """Maps that need it say what to install; the others are made all the same."""
    monkeypatch.setitem(sys.modules, "cv2", None)
    for make in (prepare.canny, prepare.blur, prepare.shuffle, lambda image: prepare.tile(image, blur=1)):
        with pytest.raises(RequestError, match=r"needs OpenCV, which is not installed; .*'latentrt\[prepare\]'"):
            make(picture)  # type: ignore[operator]
    for make in (prepare.invert, prepare.threshold, prepare.palette, prepare.tile):
        make(picture)  # type: ignore[operator]
    prepare.inpaint(picture, np.zeros((100, 150), bool))


def test_is_a_name_of_the_package() -> None:
    """``latentrt.prepare`` and ``from latentrt.prepare import canny`` are one module."""
    from latentrt.prepare import canny

    assert latentrt.prepare.canny is canny
