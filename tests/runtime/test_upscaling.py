"""Pictures through an upscaler: tiles, sizes, forms, transparency, passes; without torch and with it as reference."""

import pickle
import tracemalloc
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some
from PIL import Image
from tiny_upscalers import reference, require_spandrel, rrdb_state

import latentrt
from latentrt.engines.bundle.checks.parity import psnr
from latentrt.engines.bundle.checks.photograph import photograph
from latentrt.engines.shapes import Profile
from latentrt.engines.spec import EngineSpec, TensorSpec
from latentrt.runtime.upscaling.tiles import TileSource, cuts
from latentrt.runtime.upscaling.upscaler import Upscaler, upscaler_from_path

Array = Any


@pytest.fixture(scope="module")
def twice(onnx_upscaler_bundle: Path) -> Iterator[Upscaler]:
    """One that repeats each pixel, opened."""
    with upscaler_from_path(onnx_upscaler_bundle, threads=1) as upscaler:
        yield upscaler


def picture(width: int, height: int) -> Array:
    """The photograph (H, W, 3) float32 in [0, 1]."""
    return np.asarray(photograph(Profile(width=width, height=height)), np.float32) / np.float32(255.0)


class Repeats:
    """Engines that repeat pixels, and remember the sizes of what they were given."""

    def __init__(self, *, fixed: tuple[int, int] | None = None) -> None:
        self.fixed, self.seen = fixed, set[tuple[int, int]]()

    def at(self, width: int, height: int) -> Any:
        """An engine; of a fixed size whatever is asked."""
        height, width = self.fixed or (height, width)
        kind = np.dtype(np.float32)
        spec = EngineSpec(
            inputs={"picture": TensorSpec(shape=("batch", 3, height, width), dtype=kind)},
            outputs={"enlarged": TensorSpec(shape=("batch", 3, 2 * height, 2 * width), dtype=kind)},
            batches=(1,),
        )

        def run(inputs: Mapping[str, Array]) -> dict[str, Array]:
            spec.check(inputs)
            self.seen.add(inputs["picture"].shape[2:])
            return {"enlarged": inputs["picture"].repeat(2, 2).repeat(2, 3)}

        return SimpleNamespace(spec=spec, run=run)

    def tiles(self, *sizes: Profile, multiple: int = 1) -> TileSource:
        """What cuts pictures for them."""
        return TileSource(
            engine_at=self.at, source="picture", result="enlarged", scale=2, sizes=sizes, multiple=multiple
        )


@settings(max_examples=300, deadline=None)
@given(
    length=some.integers(1, 2000),
    units=some.integers(1, 64),
    multiple=some.sampled_from([1, 2, 4, 8]),
    margin=some.integers(0, 40),
)
def test_cuts_cover_an_axis_once(length: int, units: int, multiple: int, margin: int) -> None:
    """The parts lie one behind the other, each with its fading inside of what its tile sees, and with a margin."""
    tile = units * multiple
    found = cuts(length, tile, margin=margin, multiple=multiple)
    assert [cut.first for cut in found] == [0, *(cut.last for cut in found[:-1])]
    assert [cut.fades_in for cut in found] == [0, *(cut.fades_out for cut in found[:-1])]
    assert (found[-1].last, found[-1].fades_out) == (length, 0)
    least = min(margin, tile // 4, (tile - multiple - (multiple - 1)) // 2)
    for cut in found:
        assert cut.start % multiple == 0
        assert cut.start <= cut.begin <= cut.first < cut.last <= cut.end <= cut.stop <= length
        assert cut.begin + 2 * cut.fades_in <= cut.end - 2 * cut.fades_out
        assert cut.stop - cut.start <= tile
        assert cut.start == 0 or cut.first - cut.start >= least
        assert cut.stop == length or cut.last - cut.stop <= -least
    if tile >= 4 * (margin + multiple):
        assert {cut.fades_in for cut in found[1:]} <= {margin // 2}


@pytest.mark.parametrize("fixed", [None, (24, 32)], ids=["any size", "one size"])
@pytest.mark.parametrize(("width", "height"), [(1, 1), (5, 90), (32, 24), (33, 24), (100, 7), (131, 77)])
def test_every_size_of_picture(width: int, height: int, fixed: tuple[int, int] | None) -> None:
    """Also smaller than a tile; a backend of fixed sizes is given what is missing mirrored."""
    engines, given = Repeats(fixed=fixed), picture(width, height)
    result = np.full((2 * height, 2 * width, 3), np.nan, np.float32)
    tiles = engines.tiles(Profile(width=32, height=24), multiple=2)
    assert sum(1 for _ in tiles.run(given, result)) == tiles.count(height, width)
    np.testing.assert_array_equal(result, given.repeat(2, 0).repeat(2, 1))
    assert all(h <= 24 and w <= 32 and h % 2 == w % 2 == 0 for h, w in engines.seen)


def test_the_tile_with_the_least_work_is_taken() -> None:
    """Of two sizes, for a picture that one of them fits."""
    engines, result = Repeats(), np.empty((80, 240, 3), np.float32)
    tiles = engines.tiles(Profile(width=64, height=64), Profile(width=120, height=40))
    list(tiles.run(picture(120, 40), result))
    assert engines.seen == {(40, 120)}


def test_memory_beside_picture_and_result_is_that_of_a_tile() -> None:
    """Sixteen times the pixels take no more."""
    peaks = []
    for side in (128, 512):
        given, result = np.zeros((side, side, 3), np.uint8), np.empty((2 * side, 2 * side, 3), np.uint8)
        tiles = Repeats().tiles(Profile(width=64, height=64))
        tracemalloc.start()
        for _ in tiles.run(given, result):
            pass
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.1 * peaks[0]


def test_as_spandrel_does_whole_and_in_tiles(tiny_upscaler: Path) -> None:
    """A picture that fits a tile to 1e-4; a larger one in tiles whose margins hold nearly all that the network sees."""
    require_spandrel()
    state = rrdb_state()
    with latentrt.open_upscaler(tiny_upscaler, threads=1) as upscaler:
        small = picture(31, 23)
        np.testing.assert_allclose(upscaler.upscaled(small[None])[0], reference(state, small), rtol=0, atol=1e-4)
        large = picture(81, 70)
        tiled = upscaler.upscaled(large[None])[0]
    whole = reference(state, large)
    assert psnr(tiled, whole, peak=1.0) > 50
    assert np.abs(tiled - whole).max() < 4 / 255


def test_pil_and_arrays_and_lists(twice: Upscaler) -> None:
    """PIL in, PIL out; arrays in, arrays out; several in one array or in a list."""
    image = photograph(Profile(width=21, height=13))
    doubled = np.asarray(image).repeat(2, 0).repeat(2, 1)
    larger = twice.upscale(image)
    assert (larger.mode, larger.size) == ("RGB", (42, 26))
    np.testing.assert_array_equal(np.asarray(larger), doubled)
    pixels = np.asarray(image, np.float32) / np.float32(255.0)
    for one in (pixels, np.asarray(image), pixels.transpose(2, 0, 1)):
        found = twice.upscale(one)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, doubled / 255.0, atol=1e-6)
    assert twice.upscale(np.stack([pixels, pixels])).shape == (2, 26, 42, 3)
    both = twice.upscale([image, pixels])
    assert isinstance(both[0], Image.Image)
    assert both[1].shape == (26, 42, 3)
    assert twice.upscaled(np.asarray(image)[None]).dtype == np.uint8


@pytest.mark.parametrize("mode", ["L", "1", "P", "CMYK", "I;16"])
def test_modes_without_transparency_become_rgb(mode: str, twice: Upscaler) -> None:
    """As everywhere."""
    image = Image.new("I;16", (6, 4), 30000) if mode == "I;16" else photograph().resize((6, 4)).convert(mode)
    assert twice.upscale(image).mode == "RGB"


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA"])
def test_transparency_is_enlarged_too(mode: str, twice: Upscaler) -> None:
    """By the network, as grey; where all is opaque, nothing is run for it."""
    image = photograph(Profile(width=20, height=10)).convert("RGBA")
    alpha = Image.linear_gradient("L").resize((20, 10))
    image.putalpha(alpha)
    larger = twice.upscale(image.convert(mode))
    assert larger.mode == "RGBA"
    np.testing.assert_array_equal(np.asarray(larger)[..., 3], np.asarray(alpha).repeat(2, 0).repeat(2, 1))
    told: list[tuple[int, int]] = []
    opaque = image.convert("RGB").convert("RGBA")
    larger = twice.upscale(opaque, progress=lambda done, total: told.append((done, total)))
    assert told == [(1, 1)]
    assert larger.getchannel("A").getextrema() == (255, 255)


@pytest.mark.parametrize(
    ("scale", "passes", "size"), [(1, 1, (20, 10)), (1.55, 1, (31, 16)), (2, 1, (40, 20)), (3, 2, (60, 30))]
)
def test_scale_is_met_exactly(scale: float, passes: int, size: tuple[int, int], twice: Upscaler) -> None:
    """By as many passes as it takes, and Lanczos; 8 bits and floats alike."""
    image, told = photograph(Profile(width=20, height=10)), list[int]()
    larger = twice.upscale(image, scale, progress=lambda done, total: told.append(total))
    assert larger.size == size
    assert told == [passes] * passes
    floats = twice.upscale(np.asarray(image), scale)
    assert np.abs(np.asarray(larger) / 255.0 - floats).max() < 2 / 255
    assert floats.min() >= 0.0
    assert floats.max() <= 1.0
    expected = image.resize(size, Image.Resampling.BICUBIC)
    assert psnr(np.asarray(larger), np.asarray(expected), peak=255) > 20


@pytest.mark.parametrize(
    ("image", "scale", "said"),
    [
        ("cat.png", None, "got image 'cat.png', expected a PIL picture, an array"),
        ([], None, "expected a PIL picture"),
        (np.zeros((7, 4, 5)), None, r"got image \(7, 4, 5\), expected an array \(height, width, C\)"),
        (np.full((4, 4, 3), np.nan, np.float32), None, "NaN"),
        (np.zeros((4, 4, 3), np.float32), 0.5, "got scale 0.5, expected 1 to 64"),
        (np.zeros((4, 4, 3), np.float32), float("nan"), "got scale nan, expected 1 to 64"),
        (np.zeros((4, 4, 3), np.float32), "2", "got scale '2', expected a number"),
    ],
)
def test_bad_input(image: Any, scale: Any, said: str, twice: Upscaler) -> None:
    """One sentence each, before anything is run."""
    with pytest.raises(latentrt.RequestError, match=said):
        twice.upscale(image, scale)


@pytest.mark.parametrize("pixels", [np.zeros((4, 4, 3), np.float32), np.zeros((1, 4, 4, 3)), np.zeros((1, 0, 4, 3))])
def test_plain_pixels_are_checked(pixels: Array, twice: Upscaler) -> None:
    """Their shape and their type."""
    with pytest.raises(latentrt.RequestError, match=r"expected \(N, height, width, 3\) float32"):
        twice.upscaled(pixels)


def test_more_than_memory_holds(twice: Upscaler) -> None:
    """Found out before anything is touched."""
    with pytest.raises(latentrt.RequestError, match=r"results of 1280000x1280000 take about .* GB are free; give a sm"):
        twice.upscaled(np.empty((1, 20000, 20000, 3), np.uint8), 64)


def test_nan_is_told(twice: Upscaler) -> None:
    """In place of a black picture."""
    pixels = np.full((1, 4, 4, 3), np.inf, np.float32)
    with pytest.raises(latentrt.EngineError, match="returned NaN or infinity"):
        twice.upscaled(pixels)


def test_threads_pickles_and_closing(onnx_upscaler_bundle: Path) -> None:
    """Threads share one; pickled it opens the bundle again; closed it refuses."""
    pixels = picture(150, 90)[None]
    with latentrt.open(onnx_upscaler_bundle, threads=1) as upscaler:
        assert isinstance(upscaler, latentrt.Upscaler)
        assert upscaler.scale == 2
        expected = upscaler.upscaled(pixels)
        with ThreadPoolExecutor(4) as pool:
            for found in pool.map(upscaler.upscaled, [pixels] * 4):
                np.testing.assert_array_equal(found, expected)
        with pickle.loads(pickle.dumps(upscaler)) as again:
            np.testing.assert_array_equal(again.upscaled(pixels), expected)
    with pytest.raises(latentrt.EngineError, match="is closed; open it again with latentrt"):
        upscaler.upscaled(pixels)


def test_a_bundle_of_another_sort(tiny_bundle: Path, onnx_upscaler_bundle: Path) -> None:
    """Each opener names what it was given."""
    with pytest.raises(latentrt.BundleError, match="the bundle of a model, expected that of an upscaler"):
        latentrt.open_upscaler(tiny_bundle)
    with pytest.raises(latentrt.BundleError, match="the bundle of an upscaler, expected that of a model"):
        latentrt.open_pipeline(onnx_upscaler_bundle)
    with pytest.raises(latentrt.BundleError, match="the bundle of an upscaler, expected that of a ControlNet"):
        latentrt.open_addon(onnx_upscaler_bundle)
