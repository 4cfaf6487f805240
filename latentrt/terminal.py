"""What people see on a terminal: progress on stderr, tables and results on stdout."""

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from time import perf_counter
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

stderr = Console(stderr=True, highlight=False, markup=False, emoji=False)
stdout = Console(highlight=False, markup=False, emoji=False)


class BuildProgress:
    """Shows each stage of a build: a spinner while it runs on a terminal, one line when it has ended."""

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """One stage; a stage that fails leaves no line."""
        start = perf_counter()
        if stderr.is_terminal:
            with stderr.status(name):
                yield
        else:
            yield
        stderr.print(f"{perf_counter() - start:8.1f} s  {name}")


def print_decisions(decisions: Mapping[str, Any]) -> None:
    """What was worked out about a model and how, one line each on stderr."""
    for name, decision in decisions.items():
        sys.stderr.write(f"{name:>15}: {decision.value} ({decision.reason})\n")


@contextmanager
def step_bar(label: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar over model calls on a terminal; yields a function to call with (done, total)."""
    if not stderr.is_terminal:
        yield lambda done, total: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=stderr, transient=True) as progress:
        task = progress.add_task(label, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


def say(line: str) -> None:
    """One line on stdout, to the letter: paths are neither wrapped nor read as markup."""
    sys.stdout.write(line + "\n")


def print_json(data: Mapping[str, Any]) -> None:
    """One JSON object on stdout, and nothing else there."""
    sys.stdout.write(json.dumps(data, ensure_ascii=False) + "\n")


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A table on stdout; columns of numbers are right-aligned."""
    table = Table(title=title or None, title_justify="left", header_style="bold")
    for index, column in enumerate(columns):
        numeric = bool(rows) and all(isinstance(row[index], (int, float)) for row in rows)
        table.add_column(column, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(str(value) for value in row))
    stdout.print(table)


def megabytes(size: int) -> str:
    """A size in bytes as readers expect it."""
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
