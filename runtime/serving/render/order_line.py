"""One line of a file of orders, with all that is known before it is drawn."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from latentrt.runtime.pictures.picture_file import numbered_paths


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of an order.

    Attributes:
        line: as of the order.
        id: as of the order.
        digest: as of the order.
        files: its pictures; none where it failed.
        seeds: of each picture; None of pictures that were found.
        seconds: that it took; None of pictures that were found.
        error: why it failed.
    """

    line: int
    id: str | None
    digest: str
    files: tuple[str, ...] = ()
    seeds: tuple[int, ...] | None = None
    seconds: float | None = None
    error: str | None = None

    @property
    def row(self) -> dict[str, Any]:
        """It as JSON."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class OrderLine:
    """An order that was checked.

    Attributes:
        line: its number in the file, from 1.
        id: what the file calls it.
        digest: of all that decides its pictures.
        request: a ``JobRequest`` as JSON, with a seed, and absolute paths where pictures are files.
        pictures: how many it asks for.
    """

    line: int
    id: str | None
    digest: str
    request: Mapping[str, Any]
    pictures: int

    def names(self, suffix: str) -> list[str]:
        """Its files: one, or one for each picture."""
        return [path.name for path in numbered_paths(Path(f"{self.digest}{suffix}"), self.pictures)]

    def outcome(self, **told: Any) -> Outcome:
        """What became of it."""
        return Outcome(line=self.line, id=self.id, digest=self.digest, **told)

    @property
    def row(self) -> dict[str, Any]:
        """It as JSON."""
        return asdict(self)


def outcome_from_row(row: Mapping[str, Any]) -> Outcome:
    """Reads what ``Outcome.row`` gave, or its JSON.

    Raises:
        TypeError: it is something else.
        KeyError: likewise.
    """
    seeds = row["seeds"]
    return Outcome(**{**row, "files": tuple(row["files"]), "seeds": None if seeds is None else tuple(seeds)})
