"""A grid from its command: checked, drawn cell by cell, and laid out on sheets."""

import json
import secrets
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from latentrt.cli.contact_sheet import Side, cell_size, contact_sheet
from latentrt.cli.grids.axes import Axis, axes_from_texts
from latentrt.cli.grids.calls import CellCalls
from latentrt.cli.grids.cells import Cell, CellKeys, CheckedCell, cells_of, error_in
from latentrt.cli.grids.grid import Grid
from latentrt.cli.grids.settings import Settings
from latentrt.cli.grids.table import GridCommand, Table, earlier_table, files_from_output
from latentrt.cli.terminal import print_json, say, step_bar, tell
from latentrt.engines.errors import LatentrtError
from latentrt.runtime.call.keywords.options import OnProgress
from latentrt.runtime.pictures.image import read_image
from latentrt.runtime.pictures.picture_file import settings_from_parameters, write_picture

_UNTOLD = frozenset({"Prompt", "Wildcard prompt", "RNG", "Version"})  # pairs that a sheet's subtitle leaves out
_SEED = "seed"


def draw_grid(bundle: Path, settings: Settings, texts: Mapping[str, str | None]) -> None:
    """Draws what is missing of a grid, then its sheets.

    Args:
        bundle: the bundle's folder.
        settings: what all cells are drawn with.
        texts: of the axes x, y and z, by the option that gave them.

    Raises:
        LatentrtError: an argument that cannot be served; all are checked before the first cell is drawn. Or one that
            came up in a cell; what was drawn before is kept.
    """
    axes = axes_from_texts(texts, settings)
    cells_of(axes, settings)  # before the bundle is opened
    drawing = settings.drawing
    files = files_from_output(drawing.output, len(axes[2].values))
    command = GridCommand(
        bundle=bundle.absolute().name,
        prompt=settings.prompt,
        axes={option.removeprefix("--"): text for option, text in texts.items() if text is not None},
        options=json.loads(json.dumps(drawing.given(), default=str)),
    )
    earlier = earlier_table(files, command, overwrite=drawing.overwrite)
    seed = _seed(axes, settings, earlier)
    if seed is not None:
        settings = replace(settings, drawing=drawing.with_option(_SEED, seed))
    cells = cells_of(axes, settings)
    with drawing.opened(bundle) as pipe:
        calls = CellCalls(pipe, cells)
        grid = Grid(files, command, seed, axes, _checked(calls, CellKeys(pipe.manifest), cells), earlier)
        drawn = _draw_missing(calls, grid, json=drawing.json)
        if drawing.backend == "auto" and drawn:
            tell(f"drew with {pipe.backend}")
    _write_sheets(grid)
    if drawing.json:
        print_json(json.loads(grid.table().model_dump_json()))
        return
    for sheet in files.sheets:
        say(f"{sheet}  ({len(cells)} cells, {drawn} of them new; table: {files.table})")


def _seed(axes: Sequence[Axis], settings: Settings, earlier: Table | None) -> int | None:
    """The seed for all cells, where neither an option nor an axis says one: the earlier run's, or a new one."""
    if settings.drawing.seed is not None or any(axis.name == _SEED for axis in axes):
        return None
    if earlier is None or earlier.seed is None:
        return secrets.randbits(32)
    tell(f"seed {earlier.seed}, as before; give --seed for another")
    return earlier.seed


def _checked(calls: CellCalls, keys: CellKeys, cells: Sequence[Cell]) -> list[CheckedCell]:
    """All cells with their keys.

    Raises:
        LatentrtError: the first that cannot be drawn.
    """
    checked = []
    with warnings.catch_warnings(action="ignore"):  # which come again as cells are drawn
        for cell in cells:
            try:
                checked.append(keys.checked(cell, calls.check(cell.settings)))
            except LatentrtError as error:
                raise error_in(cell, error) from error
    return checked


def _draw_missing(calls: CellCalls, grid: Grid, *, json: bool) -> int:
    """Draws what is missing, each cell on disk before the next begins; returns how many that were.

    Raises:
        LatentrtError: of a cell.
    """
    missing, total = grid.missing(), len(grid.cells)
    if grid.done:
        tell(f"{grid.done} of {total} cells are there already")
    grid.write_table()
    try:
        for number, cell in enumerate(missing, 1):
            with step_bar(f"cell {number} of {len(missing)}: {cell.cell.label}") as bar:
                path = _drawn(calls, grid, cell, bar)
            if not json:
                say(f"{path}  ({cell.cell.label})")
    except KeyboardInterrupt:
        tell(f"interrupted; {grid.done} of {total} cells are written, and the same command goes on")
        raise
    return len(missing)


def _drawn(calls: CellCalls, grid: Grid, cell: CheckedCell, progress: OnProgress) -> Path:
    """Draws a cell; returns its file."""
    try:
        return grid.add(cell, calls.draw(cell.cell.settings, progress))
    except LatentrtError as error:
        more = f"; {grid.done} of {len(grid.cells)} cells are written, and the same command goes on"
        raise error_in(cell.cell, error, more) from error


def _write_sheets(grid: Grid) -> None:
    """A sheet for each value of z."""
    x, y, z = grid.axes
    sizes = [grid.size(cell) for cell in grid.cells]
    size = max(width for width, _ in sizes), max(height for _, height in sizes)
    shown = cell_size(size, len(y.values), len(x.values))
    if shown[0] < size[0]:
        tell(f"the sheet would be too large, so cells of {size[0]}x{size[1]} are shown at {shown[0]}x{shown[1]}")
    for index, path in enumerate(grid.files.sheets):
        cells = [cell for cell in grid.cells if cell.cell.place[2] == index]
        sheet = contact_sheet(
            (read_image(grid.path(cell)) for cell in cells),
            Side(labels=y.labels, name=y.name),
            Side(labels=x.labels, name=x.name),
            size=size,
            title=", ".join(part for part in (grid.prompt, z.label(index)) if part),
            subtitle=_shared(grid.parameters(cell) for cell in cells),
        )
        write_picture(path, sheet)


def _shared(parameters: Iterable[str]) -> str:
    """The settings that all of these have, as A1111 writes them."""
    first, *others = map(settings_from_parameters, parameters)
    told = {name: value for name, value in first.items() if value and name not in _UNTOLD}
    return ", ".join(
        f"{name}: {value}" for name, value in told.items() if all(other.get(name) == value for other in others)
    )
