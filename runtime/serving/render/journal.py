"""The journal of a folder: what became of each order, line by line."""

from collections.abc import Iterable
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType

from latentrt.engines.files import locked, output_error
from latentrt.engines.json_lines import JsonLines
from latentrt.runtime.serving.render.order_line import OrderLine, Outcome, outcome_from_row
from latentrt.runtime.serving.render.shard import Shard


class Journal:
    """As a context manager it is the only one that appends to its file.

    Attributes:
        known: the last outcome of every order by its digest, those of other shards as well.
    """

    def __init__(self, folder: Path, shard: Shard) -> None:
        """Takes the folder of pictures, which need not be there, and the part that is drawn."""
        self._folder, self._path = folder, folder / shard.journal_name
        self._lines = JsonLines(self._path)
        self._held = ExitStack()
        self.known: dict[str, Outcome] = {}
        self._names: set[tuple[str, str | None]] = set()

    def drew(self, line: OrderLine) -> bool:
        """Whether it says that an order was drawn."""
        outcome = self.known.get(line.digest)
        return outcome is not None and outcome.error is None

    def __enter__(self) -> "Journal":
        """Makes the folder and reads what there is.

        Raises:
            BusyError: another process draws the same part into the folder.
            OutputError: the folder cannot be made, or a journal not be read.
        """
        self._held.enter_context(locked(self._path, "render"))
        try:
            journals = sorted(self._folder.glob("journal*.jsonl"))
        except OSError as error:
            raise output_error(self._folder, error) from error
        for row in (row for path in journals for row in JsonLines(path).rows()):
            with suppress(TypeError, KeyError):  # rows of others
                self._take(outcome_from_row(row))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Lets others append."""
        self._held.close()

    def add(self, outcome: Outcome) -> None:
        """Writes down what became of an order; it is on the disk then.

        Raises:
            OutputError: it cannot be written.
        """
        self._take(outcome)
        self._lines.append(outcome.row)

    def name(self, lines: Iterable[OrderLine]) -> None:
        """Writes down the ids of orders that equal others, or had another id before.

        Raises:
            OutputError: they cannot be written.
        """
        for line in lines:
            outcome = self.known.get(line.digest)
            if outcome is not None and (line.digest, line.id) not in self._names:
                self.add(replace(outcome, line=line.line, id=line.id))

    def _take(self, outcome: Outcome) -> None:
        self.known[outcome.digest] = outcome
        self._names.add((outcome.digest, outcome.id))
