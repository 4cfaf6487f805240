"""A table of a result's rows, as the page and Markdown show it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from latentrt.benchmarks.report.units import DASH, psnr_text

Cells = tuple[str, ...]
_NO_WORDS = (DASH, psnr_text(None))


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows of one kind: a title, columns, and the cells of each row by its place in the result."""

    title: str
    columns: Cells
    rows: Mapping[int, Cells]

    @property
    def words(self) -> frozenset[int]:
        """The columns that hold words in some row, and not figures."""
        return frozenset(
            column
            for column in range(len(self.columns))
            if any(
                not cells[column].lstrip("-")[:1].isdigit()
                for cells in self.rows.values()
                if cells[column] not in _NO_WORDS
            )
        )


def markdown_lines(heading: str, columns: Cells, rows: list[Cells]) -> list[str]:
    """A table in Markdown; the heading stands above the first column."""
    cells = [(heading, *columns[1:]), *rows]
    shown = ["| " + " | ".join(escaped(cell) for cell in row) + " |" for row in cells]
    return [shown[0], "|" + "---|" * len(columns), *shown[1:]]


def escaped(text: str) -> str:
    """Text as Markdown shows it: what would end a cell, or be markup, HTML or a comment, stands for itself."""
    return re.sub(r"([\\`*_\[\]<>|])", r"\\\1", " ".join(text.split()))
