"""What was measured so far, one line each, so that a run that was stopped goes on where it was."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from latentrt.engines.json_lines import JsonLines

Answer = dict[str, Any]


class Journal:
    """Answers by what was asked, kept in a file beside the result; one of other settings is started anew."""

    def __init__(self, path: Path | None, settings: Mapping[str, Any]) -> None:
        """Reads what there is in the file; None keeps nothing on disk. ``settings`` are all that answers depend on.

        Raises:
            OutputError: the file cannot be written.
        """
        self._lines: JsonLines | None = None
        self._known: dict[str, Answer] = {}
        if path is None:
            return
        text = json.dumps(settings, sort_keys=True, default=str)
        head = {"settings": hashlib.sha256(text.encode()).hexdigest()}
        self._lines = JsonLines(path)
        rows = self._lines.rows()
        if rows[:1] != [head]:
            self._lines.start(head)
            return
        self._known = {row["key"]: row["answer"] for row in rows[1:] if {"key", "answer"} <= row.keys()}

    @property
    def resumed(self) -> int:
        """How many answers an earlier run left."""
        return len(self._known)

    def known(self, *key: object) -> Answer | None:
        """An answer that is there already."""
        return self._known.get(_text(key))

    def rounds(self, count: int, *key: object) -> list[Answer]:
        """The answers of all rounds: ``key`` is phase, case, and the entrant's name, before which the round stands."""
        *before, name = key
        answers = (self.known(*before, number, name) for number in range(count))
        return [answer for answer in answers if answer is not None]

    def add(self, key: tuple[object, ...], answer: Answer) -> None:
        """Keeps an answer.

        Raises:
            OutputError: the file cannot be written.
        """
        self._known[_text(key)] = answer
        if self._lines is not None:
            self._lines.append({"key": _text(key), "answer": answer})


def _text(key: tuple[object, ...]) -> str:
    return "/".join(map(str, key))
