"""Files of JSON lines that a process appends to until it ends, or is killed."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from latentrt.engines.files import output_error

Row = dict[str, Any]


class JsonLines:
    """A file with one JSON object a line. A row that was appended is on the disk, whatever comes after."""

    def __init__(self, path: Path) -> None:
        """Takes the file, which need not be there."""
        self._path = path

    def rows(self) -> list[Row]:
        """The rows so far. A line that was cut short is left out.

        Raises:
            OutputError: the file cannot be read.
        """
        try:
            content = self._path.read_bytes() if self._path.is_file() else b""
        except OSError as error:
            raise output_error(self._path, error) from error
        rows = []
        for line in content.decode("utf-8", "replace").split("\n"):
            try:
                row = json.loads(line)
            except ValueError:
                continue
            if isinstance(row, dict):
                rows.append(row)
        return rows

    def start(self, row: Mapping[str, Any]) -> None:
        """Begins the file anew with a row.

        Raises:
            OutputError: the file cannot be written.
        """
        try:
            self._path.write_bytes(b"")
        except OSError as error:
            raise output_error(self._path, error) from error
        self.append(row)

    def append(self, row: Mapping[str, Any]) -> None:
        """Adds a row, behind what was cut short on a line of its own.

        Raises:
            OutputError: the file cannot be written.
        """
        line = f"{json.dumps(row, ensure_ascii=False)}\n".encode("utf-8", "surrogatepass")
        try:
            with self._path.open("a+b") as file:
                if file.seek(0, os.SEEK_END):
                    file.seek(-1, os.SEEK_END)
                    line = line if file.read(1) == b"\n" else b"\n" + line
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise output_error(self._path, error) from error
