"""Which part of a file of orders a process draws."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from latentrt.engines.errors import RequestError, shown

_TEXT = re.compile(r"(\d{1,6})/(\d{1,6})", re.ASCII)
_Item = TypeVar("_Item")


@dataclass(frozen=True, kw_only=True)
class Shard:
    """The part ``index`` of ``count``, counted from 1; the whole by default."""

    index: int = 1
    count: int = 1

    def of(self, items: Sequence[_Item]) -> Sequence[_Item]:
        """Every ``count``-th item, so that all parts have about as much to do."""
        return items[self.index - 1 :: self.count]

    @property
    def journal_name(self) -> str:
        """The journal's file: every part has its own, as processes on several machines cannot append to one."""
        return "journal.jsonl" if self.count == 1 else f"journal-{self.index}-of-{self.count}.jsonl"


def shard_from_text(text: str) -> Shard:
    """Reads ``i/n``.

    Raises:
        RequestError: something else.
    """
    match = _TEXT.fullmatch(text)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise RequestError(f"got shard {shown(text)}, expected i/n, such as 1/4 to 4/4; correct it")
    return Shard(index=int(match[1]), count=int(match[2]))
