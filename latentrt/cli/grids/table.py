"""A grid's files: its sheets, its cells, and its table, by which the same command goes on where it stopped."""

import errno
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from latentrt.cli.outputs import check_places
from latentrt.engines.bundle.records.record import Record
from latentrt.engines.errors import RequestError
from latentrt.engines.files import output_error, write_file
from latentrt.runtime.pictures.picture_file import check_picture_name


class Row(Record):
    """A cell that is drawn: its values on the axes, its file beside the table, what drew it,
    and in how many seconds, where that is known.

    ``parameters`` are the settings as the file carries them, ``settings`` the same one by one.
    """

    x: str | None
    y: str | None
    z: str | None
    file: str
    seed: int
    seconds: float | None
    parameters: str
    settings: dict[str, Any]


class GridCommand(Record):
    """What a grid was asked for: the bundle's name, the prompt, axes as they were written, and options by keyword."""

    bundle: str
    prompt: str
    axes: dict[str, str]
    options: dict[str, Any]


class Table(Record):
    """``grid.json``: all cells that are drawn, row by row, of a grid that is complete or not.

    ``seed`` is that of all cells whose seed neither an option nor an axis says.
    """

    format: Literal["latentrt grid 1"] = "latentrt grid 1"
    complete: bool
    sheets: tuple[str, ...]
    command: GridCommand
    seed: int | None
    cells: tuple[Row, ...]

    def write(self, path: Path) -> None:
        """Writes it whole or not at all.

        Raises:
            OutputError: it cannot be written.
        """
        text = self.model_dump_json(indent=2)
        write_file(path, lambda temporary: temporary.write_text(f"{text}\n", "utf-8"))


@dataclass(frozen=True, kw_only=True)
class GridFiles:
    """Where a grid is written: a sheet for each value of z, the table, and the folder of its cells."""

    sheets: tuple[Path, ...]
    table: Path
    cells: Path


def files_from_output(output: Path, sheets: int) -> GridFiles:
    """The files of a grid by its sheet's name; several sheets are numbered.

    Raises:
        RequestError: a name that is no picture's.
    """
    check_picture_name(output)
    return GridFiles(
        sheets=(output,) if sheets == 1 else tuple(output.with_stem(f"{output.stem}-{i}") for i in range(sheets)),
        table=output.with_suffix(".json"),
        cells=output.with_name(f"{output.stem}-cells"),
    )


def earlier_table(files: GridFiles, command: GridCommand, *, overwrite: bool) -> Table | None:
    """The table of an earlier run of the command, if there was one.

    Args:
        files: of the grid, which will be written.
        command: what the grid is asked for.
        overwrite: whether files of others are replaced; what fits of another grid is still used.

    Raises:
        RequestError: files that are another grid's, or none's.
        OutputError: nothing can be written there.
    """
    check_places([files.table, *files.sheets], made=False, overwrite=True)
    if files.cells.exists() and not files.cells.is_dir():
        raise output_error(files.cells, FileExistsError(errno.ENOTDIR, "not a folder"))
    table = _read(files.table)
    if table is None and files.table.exists():
        raise RequestError(
            f"got -o {str(files.sheets[0])!r}, beside which {str(files.table)!r} is no grid's table; give another -o"
        )
    same = table is not None and table.command == command
    if table is not None and not same and not overwrite:
        raise RequestError(
            f"got -o {str(files.sheets[0])!r}, where another grid is ({_difference(table.command, command)}), expected "
            "the same command, which goes on, or a new name; give another -o, or --overwrite to replace sheet and table"
        )
    check_places(files.sheets, made=False, overwrite=overwrite or same)
    return table


def _read(path: Path) -> Table | None:
    """The table; None where there is none, or another file."""
    try:
        return Table.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None


def _difference(earlier: GridCommand, command: GridCommand) -> str:
    """The first thing in which two commands differ."""
    before: Mapping[str, Any] = earlier.model_dump()
    now: Mapping[str, Any] = command.model_dump()
    pairs = [
        (f"{'' if part in ('bundle', 'prompt') else '--'}{name}", here.get(name), there.get(name))
        for part in before
        for here, there in [_parts(part, before[part], now[part])]
        for name in {**here, **there}
    ]
    return next(f"{name} {old!r}" if old is not None else f"without {name}" for name, old, new in pairs if old != new)


def _parts(name: str, before: Any, now: Any) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    return (before, now) if isinstance(before, dict) else ({name: before}, {name: now})
