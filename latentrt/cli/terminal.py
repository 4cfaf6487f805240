"""What people see on a terminal: progress on stderr, tables and results on stdout."""

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from time import perf_counter
from typing import Any

from rich.console import Console
from rich.measure import Measurement
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

stderr = Console(stderr=True, highlight=False, markup=False, emoji=False)
stdout = Console(highlight=False, markup=False, emoji=False)
_LONG_VALUE = 50
_FIGURE = 12  # characters at most; a value as short as that is not folded
_ENDLESS = 10_000  # columns of a line that goes to a file or to another program


class BuildLog:
    """Shows each stage of a build: one line when it has ended."""

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """One stage; a stage that fails leaves no line."""
        start = perf_counter()
        yield
        stderr.print(f"{perf_counter() - start:8.1f} s  {name}")

    def phase(self, name: str, done: int, total: int) -> None:
        """Phases leave no line."""


class BuildProgress(BuildLog):
    """The same, and on a terminal a spinner while a stage runs, or a bar where the stage reports phases."""

    def __init__(self) -> None:
        self._bar: Progress | None = None
        self._task: TaskID | None = None

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """One stage; a stage that fails leaves no line."""
        with super().stage(name):
            if not stderr.is_terminal:
                yield
                return
            columns = (SpinnerColumn(_spinner()), TextColumn("{task.description}"), _PhaseColumn(), TimeElapsedColumn())
            with Progress(*columns, console=stderr, transient=True) as self._bar:
                self._task = self._bar.add_task(name, total=None, phase="")
                try:
                    yield
                finally:
                    self._bar, self._task = None, None

    def phase(self, name: str, done: int, total: int) -> None:
        """How much of a phase of the stage is done, in percent; the innermost phase is shown."""
        bar, task = self._bar, self._task  # calls may come from other threads
        if bar is not None and task is not None:
            bar.update(task, completed=done, total=max(total, 1), phase=name)


def _spinner() -> str:
    """A spinner of characters that the terminal has."""
    return "dots" if stderr.encoding.startswith("utf") else "line"


class _PhaseColumn(ProgressColumn):
    """A bar with the phase's name and percentage, where there is one."""

    def render(self, task: Task) -> Text | Table:
        """Nothing for stages without phases."""
        if not task.fields["phase"]:
            return Text("")
        grid = Table.grid(padding=(0, 1))
        bar = ProgressBar(total=task.total, completed=task.completed, width=24)
        grid.add_row(bar, f"{task.percentage:3.0f} %", task.fields["phase"])
        return grid


def print_decisions(decisions: Mapping[str, Any]) -> None:
    """What was worked out about a model, and why, one line each on stderr."""
    for name, decision in decisions.items():
        sys.stderr.write(f"{name:>15}: {decision.value} ({decision.reason})\n")


@contextmanager
def step_bar(label: str) -> Iterator[Callable[[float, int], None]]:
    """A progress bar over model calls, or whatever is counted, on a terminal; yields a function to call with
    (done, total)."""
    if not stderr.is_terminal:
        yield lambda done, total: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=stderr, transient=True) as progress:
        task = progress.add_task(label, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


def say(line: str) -> None:
    """One line on stdout, verbatim: paths are neither wrapped nor read as markup. Who reads it has it at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def tell(line: str) -> None:
    """One line on stderr, beside the work."""
    sys.stderr.write(f"latentrt: {line}\n")


def print_json(data: Mapping[str, Any]) -> None:
    """One JSON object on stdout, and nothing else there; what its encoding lacks is escaped as JSON does."""
    text = json.dumps(data, ensure_ascii=False)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        text = json.dumps(data)
    sys.stdout.write(text + "\n")


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A table on stdout; columns of numbers are right-aligned.

    A terminal that is too narrow for it gets no lines, and texts are folded; a file gets every row in one line.
    """
    if not stdout.is_terminal:
        plain = Console(width=_ENDLESS, highlight=False, markup=False, emoji=False)
        plain.print(_table(title, columns, rows, narrow=False))
        return
    table = _table(title, columns, rows, narrow=False)
    fits = Measurement.get(stdout, stdout.options, table).maximum < stdout.width
    stdout.print(table if fits else _table(title, columns, rows, narrow=True))


def _table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]], *, narrow: bool) -> Table:
    widths = [max((len(str(row[index])) for row in rows), default=0) for index in range(len(columns))]
    longest = widths.index(max(widths)) if max(widths, default=0) > _LONG_VALUE else None
    shape: dict[str, Any] = {"box": None, "padding": (0, 1, 0, 0)} if narrow else {}
    table = Table(title=title or None, title_justify="left", header_style="bold", **shape)
    for index, (column, width) in enumerate(zip(columns, widths, strict=True)):
        numeric = bool(rows) and all(isinstance(row[index], (int, float)) for row in rows)
        whole = width <= _FIGURE or (index < 2 and index != longest and not narrow)
        header = column.replace(" ", "\n") if narrow and width < len(column) else column
        table.add_column(header, justify="right" if numeric else "left", overflow="fold", no_wrap=whole)
    for row in rows:
        table.add_row(*(str(value) for value in row))
    return table


def megabytes(size: int) -> str:
    """A size in bytes as text, in MB or GB."""
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
