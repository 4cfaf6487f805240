"""What was measured so far, one line each, so that a run that was stopped goes on where it was."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from latentrt.engines.files import output_error

Answer = dict[str, Any]


class Journal:
    """Answers by what was asked, kept in a file beside the result; one of other settings is started anew."""

    def __init__(self, path: Path | None, settings: Mapping[str, Any]) -> None:
        """Reads what there is in the file; None keeps nothing on disk. ``settings`` are all that answers depend on.

        Raises:
            OutputError: the file cannot be written.
        """
        self._path = path
        self._known: dict[str, Answer] = {}
        if path is None:
            return
        text = json.dumps(settings, sort_keys=True, default=str)
        head = json.dumps({"settings": hashlib.sha256(text.encode()).hexdigest()})
        try:
            text = path.read_bytes().decode("utf-8", "replace") if path.is_file() else ""
            lines = text.splitlines()
            if lines[:1] != [head]:
                path.write_text(head + "\n", "utf-8")
                return
        except OSError as error:
            raise output_error(path, error) from error
        for line in lines[1:]:
            try:
                row = json.loads(line)
                self._known[row["key"]] = row["answer"]
            except (ValueError, KeyError, TypeError):  # the line that was being written when the run was stopped
                continue
        if not text.endswith("\n"):
            self._append("\n")  # so that the next answer has a line of its own

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
        self._append(json.dumps({"key": _text(key), "answer": answer}) + "\n")

    def _append(self, text: str) -> None:
        if self._path is None:
            return
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(text)
        except OSError as error:
            raise output_error(self._path, error) from error


def _text(key: tuple[object, ...]) -> str:
    return "/".join(map(str, key))
