"""Texts on pictures: wrapped to a width, in a font that has their characters."""

import unicodedata
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import islice

from PIL import ImageDraw, ImageFont

_Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
# Pillow's own font has ASCII; for other texts the first of these that is installed and has all of their characters
_OTHER_FONTS = ("DejaVuSans.ttf", "NotoSans-Regular.ttf", "NotoSansCJK-Regular.ttc", "Arial Unicode.ttf", "arial.ttf")
_MISSING = "\U0010ffff"  # no font has it
_PLAIN = str.maketrans({"×": "x", "–": "-", "—": "-", "−": "-", "·": "-", "“": '"', "”": '"', "‘": "'", "’": "'"})
_LINE = 1.3  # heights of a font


@dataclass(frozen=True, kw_only=True)
class Lettering:
    """Lines of text in a font of ``size`` pixels."""

    lines: tuple[str, ...]
    font: _Font
    size: int
    colour: str

    @property
    def line_height(self) -> int:
        """Of one line, in pixels."""
        return line_height(self.size)

    @property
    def height(self) -> int:
        """Of all lines, in pixels."""
        return len(self.lines) * self.line_height

    @property
    def width(self) -> int:
        """Of the longest line, in pixels."""
        return round(max((self.font.getlength(line) for line in self.lines), default=0))

    def draw(self, pen: ImageDraw.ImageDraw, x: float, y: float, align: str = "l") -> None:
        """Draws from the height ``y`` down; ``x`` is where lines begin ("l"), have their middle ("m") or end ("r")."""
        for index, line in enumerate(self.lines):
            pen.text((x, y + (index + 0.5) * self.line_height), line, self.colour, self.font, anchor=f"{align}m")


def lettering(text: str, size: int, *, width: float, most: int, colour: str = "#222222") -> Lettering:
    """A text in lines of at most ``width`` pixels; what is beyond ``most`` lines is left out, which dots show."""
    font = _font_for(text, size)
    drawable = _drawable(text, font)
    wrapped = (line for paragraph in drawable.splitlines() for line in _lines(paragraph, font, width))
    lines = list(islice(wrapped, most + 1))
    if len(lines) > most:
        last = lines[most - 1]
        while last and font.getlength(f"{last}...") > width:
            last = last[:-1]
        lines = [*lines[: most - 1], f"{last}..."]
    return Lettering(lines=tuple(lines), font=font, size=size, colour=colour)


def line_height(size: int) -> int:
    """Of a line in a font of ``size`` pixels."""
    return round(_LINE * size)


def _lines(text: str, font: _Font, width: float) -> Iterator[str]:
    """Between words; a word that is longer than a line is cut."""
    line = ""
    for word in text.split():
        longer = f"{line} {word}" if line else word
        if font.getlength(longer) <= width:
            line = longer
            continue
        if line:
            yield line
        line = word
        while (fits := _characters_that_fit(line, font, width)) < len(line):
            yield line[:fits]
            line = line[fits:]
    if line:
        yield line


def _characters_that_fit(text: str, font: _Font, width: float) -> int:
    """How many of a text's characters, at least one, a line of ``width`` pixels has room for."""
    ends = range(1, len(text) + 1)
    return max(1, bisect_right(ends, width, key=lambda end: font.getlength(text[:end])))


def _font_for(text: str, size: int) -> _Font:
    own = _font(None, size)
    assert own is not None
    others = (font for name in _OTHER_FONTS if (font := _font(name, size)) is not None and not _lacks(text, font))
    return own if text.isascii() else next(others, own)


@cache
def _font(name: str | None, size: int) -> _Font | None:
    """A font by its file's name, None if it is not installed; without a name Pillow's own."""
    if name is None:
        return ImageFont.load_default(size=size)
    try:
        return ImageFont.truetype(name, size)
    except OSError:
        return None


def _lacks(text: str, font: _Font) -> set[str]:
    """The characters that a font shows as a box."""
    box = bytes(font.getmask(_MISSING))
    return {character for character in set(text) if character.isprintable() and bytes(font.getmask(character)) == box}


def _drawable(text: str, font: _Font) -> str:
    """The text with what the font lacks in its plain form, or as a question mark."""
    if text.isascii() or not (missing := _lacks(text, font)):
        return text
    plain = unicodedata.normalize("NFKD", "".join(c.translate(_PLAIN) if c in missing else c for c in text))
    without_marks = "".join(character for character in plain if not unicodedata.combining(character))
    still = _lacks(without_marks, font)
    return "".join("?" if character in still else character for character in without_marks)
