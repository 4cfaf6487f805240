"""Contact sheets: pictures in rows and columns on one page, with labels."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import ceil, sqrt

from PIL import Image, ImageDraw

from latentrt.cli.lettering import Lettering, lettering, line_height
from latentrt.engines.errors import RequestError

_LONGEST = 16_000  # pixels of a side; WebP's longest is 16,383
_LABELS = 1_000  # of them at most for what stands beside or above the cells
_MOST_PIXELS = 50_000_000  # of all cells together
_NARROWEST = 360  # pixels of a page with a title
_GREY = "#666666"


@dataclass(frozen=True, kw_only=True)
class Side:
    """The rows or the columns of a sheet: a label for each, and the name of what differs between them."""

    labels: Sequence[str]
    name: str = ""


def contact_sheet(
    pictures: Iterable[Image.Image],
    rows: Side,
    columns: Side,
    *,
    size: tuple[int, int],
    smallest: int = 128,
    title: str = "",
    subtitle: str = "",
) -> Image.Image:
    """Pictures in rows × columns with their labels, as RGB.

    Args:
        pictures: row by row; they are taken one at a time, and all shown at one scale, in the middle of their cells.
        rows: labelled on the left.
        columns: labelled on top.
        size: width and height of the largest picture, in pixels.
        smallest: pixels of a side of it; smaller ones are enlarged.
        title: what stands above everything.
        subtitle: what stands below the title, in smaller letters.

    Raises:
        RequestError: the number of pictures is not rows times columns.
    """
    width, height = cell_size(size, len(rows.labels), len(columns.labels), smallest)
    letters = min(max(min(width, height) // 6, 12), 28)
    gap = letters // 3

    def text(words: str, room: float, most: int = 5, colour: str = "#222222", scale: float = 1.0) -> Lettering:
        return lettering(words, round(scale * letters), width=room, most=most, colour=colour)

    room = min(max(1.5 * width, 10 * letters), _LABELS - 100)
    beside = [text(label, room, max(1, height // line_height(letters))) for label in rows.labels]
    above = [text(label, width) for label in columns.labels]
    rows_name, columns_name = text(rows.name, room, 1, _GREY), text(columns.name, room, 1, _GREY)
    margin = max(label.width for label in (rows_name, *beside))
    left = margin + 3 * gap if margin else gap
    right = left + len(columns.labels) * (width + gap)
    page = max(right, left + columns_name.width + gap, _NARROWEST if title else 0)
    head = [text(title, page - 2 * gap, 6, scale=1.2), text(subtitle, page - 2 * gap, 6, _GREY, scale=0.75)]
    tallest = max(label.height for label in above)
    labels = max(columns_name.height + tallest, rows_name.height)
    top = gap + sum(part.height for part in head) + labels + gap * sum(map(bool, (title or subtitle, labels)))
    sheet = Image.new("RGB", (page, top + len(rows.labels) * (height + gap)), "white")
    pen = ImageDraw.Draw(sheet)
    y = gap
    for part in head:
        part.draw(pen, gap, y)
        y += part.height
    under = top - gap
    columns_name.draw(pen, left, under - tallest - columns_name.height)
    rows_name.draw(pen, left - 2 * gap, under - rows_name.height, "r")
    for column, label in enumerate(above):
        label.draw(pen, left + column * (width + gap) + width / 2, under - label.height, "m")
    for row, label in enumerate(beside):
        label.draw(pen, left - 2 * gap, top + row * (height + gap) + (height - label.height) / 2, "r")
    places = [
        (left + x * (width + gap), top + y * (height + gap)) for y in range(len(beside)) for x in range(len(above))
    ]
    count = 0
    for count, picture in enumerate(pictures, 1):
        if count <= len(places):
            shown = _scaled(picture, width / size[0])
            x, y = places[count - 1]
            sheet.paste(shown, (x + (width - shown.width) // 2, y + (height - shown.height) // 2))
    if count != len(places):
        raise RequestError(f"got {count} pictures for {len(beside)} × {len(above)} cells; give one per cell")
    return sheet


def cell_size(size: tuple[int, int], rows: int, columns: int, smallest: int = 128) -> tuple[int, int]:
    """Width and height at which pictures of a size are shown on a sheet, in pixels.

    Small pictures are enlarged by a whole number. Where a side of the sheet would have more than 16,000 pixels, or its
    cells more than 50 million together, pictures shrink.
    """
    width, height = size
    scale = min(
        ceil(smallest / min(size)),
        _room_of_each(columns) / width,
        _room_of_each(rows) / height,
        sqrt(_MOST_PIXELS / (width * columns * height * rows)),
    )
    if scale >= 1:
        scale = int(scale)
    return max(1, int(width * scale)), max(1, int(height * scale))


def _room_of_each(cells: int) -> float:
    """Pixels of a side of the page for each of its cells, without the gap behind it."""
    room = (_LONGEST - _LABELS) / cells
    return room - min(max(room / 18, 4), 9)


def _scaled(picture: Image.Image, scale: float) -> Image.Image:
    size = max(1, int(picture.width * scale)), max(1, int(picture.height * scale))
    filter = Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.LANCZOS
    return picture if size == picture.size else picture.convert("RGB").resize(size, filter)
