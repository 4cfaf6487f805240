"""Canvases for outpainting: sizes, exact pictures, filled room, masks that fade, refusals."""

from typing import Any

import numpy as np
import pytest
from PIL import Image

from latentrt.engines.errors import RequestError
from latentrt.runtime.pictures.image import images_from_pixels
from latentrt.runtime.pictures.mask import inpaint_input_from_pictures, paste_back
from latentrt.runtime.pictures.outpaint import outpaint_canvas


def photo(width: int = 40, height: int = 30) -> Image.Image:
    """Noise."""
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8))


def test_the_picture_lies_on_the_canvas_unchanged() -> None:
    """Room on each side is white in the mask, the picture black; both have the final size."""
    canvas, mask = outpaint_canvas(photo(), left=8, top=3, right=24, bottom=9)
    assert canvas.size == mask.size == (72, 42)
    assert (canvas.mode, mask.mode) == ("RGB", "L")
    np.testing.assert_array_equal(np.asarray(canvas)[3:33, 8:48], photo())
    expected = np.full((42, 72), 255)
    expected[3:33, 8:48] = 0
    np.testing.assert_array_equal(mask, expected)


def test_the_room_goes_on_from_the_edge_and_calms_down() -> None:
    """Beside the edge its own colours; farther away less contrast; the mean colour stays."""
    canvas, _ = outpaint_canvas(photo(), right=64)
    room = np.asarray(canvas, np.float64)[:, 40:]
    edge = np.asarray(photo(), np.float64)[:, -1]
    assert np.abs(room[:, 0] - edge).mean() < 20
    deviation = room.std(axis=(0, 2))
    assert deviation[0] > 2 * deviation[16] > 2 * deviation[-1]
    assert np.abs(room.mean((0, 1)) - edge.mean(0)).max() < 25


def test_the_overlap_fades_into_the_picture() -> None:
    """Only along sides that grow: from white to one half; the rest of the picture is kept, and comes back."""
    canvas, mask = outpaint_canvas(photo(), left=24, overlap=10)
    row = np.asarray(mask)[15].astype(int)
    assert (row[:24] == 255).all()
    assert (np.diff(row[23:34]) < 0).all()
    assert row[24:34].min() >= 128
    assert (row[34:] == 0).all()
    assert (np.asarray(mask) == row).all()  # neither top nor bottom grows
    inputs = inpaint_input_from_pictures([canvas], [mask], 64, 30)
    assert inputs.mask[0, 0, 0].sum() == 34
    pasted = images_from_pixels(paste_back(inputs, np.ones((1, 30, 64, 3), np.float32))[0][None])[0]
    np.testing.assert_array_equal(np.asarray(pasted)[:, 34:], np.asarray(photo())[:, 10:])
    assert (np.asarray(pasted)[:, :24] == 255).all()


def test_arrays_and_transparency() -> None:
    """Arrays of 8 bits or floats mean the same as PIL; transparency is laid on white."""
    canvas, _ = outpaint_canvas(photo(), top=8)
    np.testing.assert_array_equal(outpaint_canvas(np.asarray(photo()), top=8)[0], canvas)
    np.testing.assert_array_equal(outpaint_canvas(np.asarray(photo()) / 255.0, top=8)[0], canvas)
    clear, _ = outpaint_canvas(Image.new("RGBA", (8, 8), (9, 9, 9, 0)), bottom=8)
    assert (np.asarray(clear) == 255).all()


@pytest.mark.parametrize(
    ("changes", "fragment"),
    [
        ({"left": 0}, "no padding"),
        ({"left": 10**9}, "at most 16777216 pixels"),
        ({"left": -8}, "left -8"),
        ({"left": 2.5}, "left 2.5"),
        ({"left": "8"}, "left '8'"),
        ({"left": True}, "left True"),
        ({"overlap": -1}, "overlap -1"),
        ({"overlap": 40}, "overlap 40"),
        ({"right": 8, "overlap": 20}, "overlap 20"),
        ({"image": "cat.png"}, "got image 'cat.png'"),
        ({"image": Image.new("RGB", (0, 5))}, r"got image \(5, 0, 3\)"),
        ({"image": np.zeros((0, 8, 3))}, r"\(0, 8, 3\)"),
        ({"image": np.zeros((8, 8, 2))}, r"\(8, 8, 2\)"),
        ({"image": np.full((8, 8, 3), np.nan)}, "NaN"),
    ],
)
def test_refused(changes: dict[str, Any], fragment: str) -> None:
    """One sentence each."""
    arguments: dict[str, Any] = {"image": photo(), "left": 8, **changes}
    with pytest.raises(RequestError, match=fragment):
        outpaint_canvas(arguments.pop("image"), **arguments)
