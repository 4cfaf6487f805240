"""The cells of a grid: what each is drawn with, and the key by which a picture of it is known again."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from latentrt.cli.grids.axes import Axis
from latentrt.cli.grids.settings import Settings
from latentrt.cli.grids.values import MOST_CELLS
from latentrt.cli.outputs import slug
from latentrt.engines.bundle.digests import FileDigests, json_digest, weights_digest
from latentrt.engines.bundle.records.manifests.manifest import BundleManifest
from latentrt.engines.errors import LatentrtError, RequestError
from latentrt.runtime.metadata.picture_metadata import PictureMetadata

_DIGITS = 12  # of a key
_SEPARATORS = re.compile(r"([:@=,])")  # between files and what else an option says
_SPAN = 10  # parts and separators of a path that has some in its name


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One picture: its places on the axes x, y and z, and its settings."""

    place: tuple[int, ...]
    label: str
    settings: Settings


@dataclass(frozen=True, kw_only=True)
class CheckedCell:
    """A cell whose arguments a pipeline has checked.

    ``key`` is a digest of all that its picture depends on; ``parameters`` are its settings as A1111 writes them.
    """

    cell: Cell
    key: str
    metadata: PictureMetadata
    parameters: str

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of its picture."""
        return self.metadata.width, self.metadata.height

    @property
    def file_name(self) -> str:
        """Its file: what differs, for people, and the key."""
        name = slug(self.cell.label) if self.cell.label else "cell"
        return f"{name}-{self.key}.png"


def cells_of(axes: Sequence[Axis], settings: Settings) -> list[Cell]:
    """Every combination, sheet by sheet and row by row.

    Args:
        axes: x, y and z.
        settings: what all cells are drawn with.

    Raises:
        RequestError: too many of them, or a text to replace that one of them lacks.
    """
    x, y, z = axes
    count = len(x.values) * len(y.values) * len(z.values)
    if count > MOST_CELLS:
        sides = " × ".join(str(len(axis.values)) for axis in axes if axis.name)
        raise RequestError(f"got {sides} = {count} cells, expected at most {MOST_CELLS}; choose fewer values")
    return [
        _cell(axes, (column, row, sheet), settings)
        for sheet in range(len(z.values))
        for row in range(len(y.values))
        for column in range(len(x.values))
    ]


def _cell(axes: Sequence[Axis], place: tuple[int, ...], settings: Settings) -> Cell:
    for axis, index in zip(axes, place, strict=True):
        settings = axis.change(settings, axis.values[index])
    labels = [label for axis, index in zip(axes, place, strict=True) if (label := axis.label(index))]
    return Cell(place=place, label=", ".join(labels), settings=settings)


class CellKeys:
    """Makes the keys of cells; every file that they name is read once."""

    def __init__(self, manifest: BundleManifest) -> None:
        """Takes the manifest of the bundle that draws."""
        self._model = weights_digest(manifest)
        self._named: dict[str, dict[str, str]] = {}
        self._digests = FileDigests()

    def checked(self, cell: Cell, metadata: PictureMetadata) -> CheckedCell:
        """A cell with its key, from the settings that a pipeline will draw it with."""
        parameters = metadata.parameters()
        given = cell.settings.drawing.given()
        values = [one for told in given.values() for one in (told if isinstance(told, (list, tuple)) else [told])]
        depends = {
            "model": self._model,
            "parameters": parameters,
            "options": {name: str(value) for name, value in given.items()},
            "files": [self._files(str(value)) for value in values],
        }
        key = json_digest(depends)[:_DIGITS]
        return CheckedCell(cell=cell, key=key, metadata=metadata, parameters=parameters)

    def _files(self, text: str) -> dict[str, str]:
        """The files and bundles that an option names, with their digests: as a whole or between separators."""
        if text not in self._named:
            parts = _SEPARATORS.split(text)  # every second one is a separator
            spans = ((first, end) for first in range(0, len(parts), 2) for end in range(first + 1, first + _SPAN, 2))
            paths = dict.fromkeys(["".join(parts[first:end]) for first, end in spans])
            self._named[text] = {path: digest for path in (text, *paths) if (digest := self._digests.of(path))}
        return self._named[text]


def error_in(cell: Cell, error: LatentrtError, more: str = "") -> LatentrtError:
    """The error with the cell that it came up in."""
    return type(error)(f"{error} (in the cell {cell.label}{more})")
