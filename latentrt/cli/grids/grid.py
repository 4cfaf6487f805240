"""A grid as it stands: which of its cells are drawn, and what its table says of them."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from PIL import Image

from latentrt.cli.grids.axes import Axis
from latentrt.cli.grids.cells import CheckedCell
from latentrt.cli.grids.table import GridCommand, GridFiles, Row, Table
from latentrt.engines.errors import RequestError
from latentrt.engines.files import output_error
from latentrt.runtime.call.result import Result
from latentrt.runtime.metadata.picture_metadata import PictureMetadata
from latentrt.runtime.pictures.picture_file import read_parameters, write_picture


class Grid:
    """The cells of a command, of which those that were drawn before are taken as they are."""

    def __init__(
        self,
        files: GridFiles,
        command: GridCommand,
        seed: int | None,
        axes: Sequence[Axis],
        cells: Sequence[CheckedCell],
        earlier: Table | None,
    ) -> None:
        """Looks for cells that are drawn.

        Args:
            files: where all is written.
            command: what was asked for.
            seed: of all cells where the command says none.
            axes: x, y and z.
            cells: all, sheet by sheet and row by row.
            earlier: the table of an earlier run.
        """
        self.files, self.axes, self.cells = files, axes, cells
        self._command, self._seed = command, seed
        told = {} if earlier is None else {row.file: row for row in earlier.cells}
        self._rows: dict[str, Row] = {}
        for cell in cells:
            row = self._row_of_file(cell, told.get(self._name(cell)))
            if row is not None:
                self._rows[cell.key] = row

    @property
    def prompt(self) -> str:
        """What the command draws."""
        return self._command.prompt

    @property
    def done(self) -> int:
        """How many cells are drawn."""
        return sum(cell.key in self._rows for cell in self.cells)

    def missing(self) -> list[CheckedCell]:
        """What is to be drawn, each picture once; cells with the same LoRAs and size follow each other."""
        missing = {cell.key: cell for cell in self.cells if cell.key not in self._rows}
        groups: dict[Any, list[CheckedCell]] = {}
        for cell in missing.values():
            drawing = cell.cell.settings.drawing
            groups.setdefault((tuple(drawing.lora or ()), cell.size), []).append(cell)
        return [cell for group in groups.values() for cell in group]

    def add(self, cell: CheckedCell, result: Result) -> Path:
        """Writes a cell's picture, then the table; returns the picture's file.

        Raises:
            OutputError: one of them cannot be written.
        """
        (image,), (metadata,) = result.images, result.metadata
        assert isinstance(image, Image.Image)
        path = self.path(cell)
        try:
            path.parent.mkdir(exist_ok=True)
        except OSError as error:
            raise output_error(path.parent, error) from error
        write_picture(path, image, metadata.parameters())
        self._rows[cell.key] = self._row(cell, metadata, round(result.timings.total, 3))
        self.write_table()
        return path

    def path(self, cell: CheckedCell) -> Path:
        """The file of a cell's picture."""
        return self.files.cells / cell.file_name

    def size(self, cell: CheckedCell) -> tuple[int, int]:
        """Width and height of a drawn cell's picture, which may have been enlarged."""
        with Image.open(self.path(cell)) as image:
            return image.size

    def parameters(self, cell: CheckedCell) -> str:
        """The settings that a drawn cell's file carries."""
        return self._rows[cell.key].parameters

    def table(self) -> Table:
        """The table with what is drawn."""
        rows = [
            self._rows[cell.key].model_copy(update=self._values(cell)) for cell in self.cells if cell.key in self._rows
        ]
        return Table(
            complete=len(rows) == len(self.cells),
            sheets=tuple(path.name for path in self.files.sheets),
            command=self._command,
            seed=self._seed,
            cells=tuple(rows),
        )

    def write_table(self) -> None:
        """Writes the table.

        Raises:
            OutputError: it cannot be written.
        """
        self.table().write(self.files.table)

    def _row_of_file(self, cell: CheckedCell, told: Row | None) -> Row | None:
        """The row of a picture that was drawn before; None where there is none, or only a part of it.

        Its key is in the file's name. Its settings must be those that the cell will be drawn with, or, where drawing
        decides more of them, those in the table.
        """
        with suppress(RequestError):
            parameters = read_parameters(self.path(cell))
            if told is not None and parameters == told.parameters:
                return told
            if parameters == cell.parameters:
                return self._row(cell, cell.metadata, None)
        return None

    def _row(self, cell: CheckedCell, metadata: PictureMetadata, seconds: float | None) -> Row:
        return Row(
            **self._values(cell),
            file=self._name(cell),
            seed=metadata.seed,
            seconds=seconds,
            parameters=metadata.parameters(),
            settings=asdict(metadata),
        )

    def _name(self, cell: CheckedCell) -> str:
        """A cell's file as the table says it."""
        return f"{self.files.cells.name}/{cell.file_name}"

    def _values(self, cell: CheckedCell) -> dict[str, Any]:
        """A cell's values on the axes, None where there is no axis."""
        pairs = zip("xyz", self.axes, cell.cell.place, strict=True)
        return {name: axis.values[index] if axis.name else None for name, axis, index in pairs}
