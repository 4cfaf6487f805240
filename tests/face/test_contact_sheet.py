"""Contact sheets: where cells and labels stand, and how large a sheet gets."""

import numpy as np
import pytest
from PIL import Image

from latentrt.cli.contact_sheet import Side, cell_size, contact_sheet
from latentrt.cli.lettering import lettering
from latentrt.engines.errors import RequestError


def sheet_of(count: int, rows: Side, columns: Side, size: tuple[int, int] = (128, 128), title: str = "") -> Image.Image:
    pictures = (Image.new("RGB", size, (index, 0, 255)) for index in range(count))
    return contact_sheet(pictures, rows, columns, size=size, title=title)


def test_cells_and_labels_have_their_places() -> None:
    """Cells row by row; the pixels beside and above them are dark where a label is."""
    sheet = sheet_of(6, Side(labels=["one", "", "three"], name="y"), Side(labels=["a", ""], name="x"))
    pixels = np.asarray(sheet).astype(int)
    gap = 128 // 6 // 3
    left, top = sheet.width - 2 * (128 + gap), sheet.height - 3 * (128 + gap)
    for index in range(6):
        row, column = divmod(index, 2)
        y, x = top + row * (128 + gap), left + column * (128 + gap)
        assert (pixels[y : y + 128, x : x + 128] == (index, 0, 255)).all()
    dark = (pixels < 128).all(axis=2)
    assert [dark[top + row * (128 + gap) :][:128, :left].any() for row in range(3)] == [True, False, True]
    assert [dark[:top, left + column * (128 + gap) :][:, :128].any() for column in range(2)] == [True, False]
    assert dark[:top, :left].any()  # the name of the rows


def test_pictures_of_several_sizes_are_shown_at_one_scale() -> None:
    """Small ones enlarged, each in the middle of its cell."""
    pictures = [Image.new("L", (32, 32), 7), Image.new("RGB", (64, 32), "red")]
    sheet = contact_sheet(pictures, Side(labels=[""]), Side(labels=["a", "b"]), size=(64, 32))
    pixels = np.asarray(sheet).astype(int)
    assert (pixels == (7, 7, 7)).all(axis=2).sum() == 128 * 128
    assert (pixels == (255, 0, 0)).all(axis=2).sum() == 256 * 128


def test_the_number_of_pictures() -> None:
    """One too many or too few is refused."""
    for count in (1, 3):
        with pytest.raises(RequestError, match=f"got {count} pictures for 1 × 2 cells"):
            sheet_of(count, Side(labels=["a"]), Side(labels=["b", "c"]))


@pytest.mark.parametrize(
    ("size", "rows", "columns", "shown"),
    [
        ((64, 64), 2, 2, (128, 128)),
        ((48, 32), 2, 2, (192, 128)),
        ((512, 512), 4, 4, (512, 512)),
        ((1024, 1024), 10, 10, (707, 707)),
        ((1024, 512), 1, 1000, (11, 5)),
        ((512, 512), 1000, 1, (11, 11)),
        ((64, 64), 1, 200, (64, 64)),
    ],
)
def test_how_large_cells_are(size: tuple[int, int], rows: int, columns: int, shown: tuple[int, int]) -> None:
    """Sides of at most 16,000 pixels, and 50 million in all cells."""
    assert cell_size(size, rows, columns) == shown


def test_a_sheet_of_hundreds_of_columns() -> None:
    """Is no larger than WebP takes, with labels of any length."""
    pictures, title = [Image.new("RGB", (16, 16))] * 200, "title " * 60
    columns = Side(labels=["ab"] * 200, name="x" * 90)
    wide = contact_sheet(pictures, Side(labels=["x" * 90]), columns, size=(1024, 512), title=title)
    few = contact_sheet(pictures[:16], Side(labels=["x" * 90] * 16), Side(labels=["a"]), size=(512, 1024), title=title)
    assert max(*wide.size, *few.size) <= 16_383
    assert min(wide.width, few.height) > 14_000


def test_texts_are_wrapped() -> None:
    """Between words, within words that are too long, and with dots where there is more; none is wider than asked."""
    text = lettering("a cat on a mat " + "m" * 60 + " end", 20, width=150, most=9)
    assert "".join(text.lines).replace(" ", "") == "acatonamat" + "m" * 60 + "end"
    assert text.lines[0] == "a cat on a mat"
    assert text.width <= 150
    short = lettering("a cat on a mat " * 9, 20, width=150, most=2)
    assert len(short.lines) == 2
    assert short.lines[1].endswith("...")
    assert short.width <= 150
    assert lettering("", 20, width=150, most=2).height == 0


def test_characters_that_no_font_has(monkeypatch: pytest.MonkeyPatch) -> None:
    """Marks are left out, and the rest is a question mark."""
    monkeypatch.setattr("latentrt.cli.lettering._OTHER_FONTS", ("none.ttf",))
    assert lettering("Häschen × 猫", 20, width=500, most=1).lines == ("Haschen x ?",)
