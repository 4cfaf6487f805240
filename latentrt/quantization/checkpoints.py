"""Intermediate results of a calibration on disk, so that one that was killed goes on where it was."""

import json
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np

from latentrt.engines.files import write_file
from latentrt.engines.spec import Array

SAVE_EVERY = 20.0  # seconds


class Checkpoints:
    """A folder of named arrays that belong to one fingerprint; those of another fingerprint are removed."""

    def __init__(self, folder: Path, fingerprint: Mapping[str, Any]) -> None:
        """Opens or makes the folder.

        Args:
            folder: where the files lie.
            fingerprint: everything that the results depend on, as JSON can hold it.
        """
        self._folder = folder
        text = json.dumps(dict(fingerprint), sort_keys=True)
        stamp = folder / "fingerprint.json"
        if not stamp.is_file() or stamp.read_text("utf-8") != text:
            folder.mkdir(parents=True, exist_ok=True)
            for outdated in folder.glob("*.npz"):
                outdated.unlink()
            write_file(stamp, lambda path: _write_text(path, text))

    def load(self, name: str) -> dict[str, Array] | None:
        """The arrays saved under a name; None if there are none, or the file is damaged."""
        try:
            with np.load(self._folder / f"{name}.npz") as saved:
                return dict(saved)
        except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile):
            return None

    def save(self, name: str, arrays: Mapping[str, Array]) -> None:
        """Replaces what is saved under a name, in one rename."""

        def write(path: Path) -> None:
            with path.open("wb") as file:
                np.savez(file, **dict(arrays))  # type: ignore[arg-type]  # names are the caller's

        write_file(self._folder / f"{name}.npz", write)

    @contextmanager
    def autosaved(self, name: str, arrays: Callable[[], Mapping[str, Array]]) -> Iterator[Callable[[], None]]:
        """Saves work in progress, and its result when the block succeeds.

        Args:
            name: what it is saved under.
            arrays: the work as it is at the moment.

        Yields:
            A function to call whenever some of the work is done: it saves if the last time is 20 seconds ago.
        """
        last = monotonic()

        def save_if_due() -> None:
            nonlocal last
            if monotonic() - last > SAVE_EVERY:
                self.save(name, arrays())
                last = monotonic()

        yield save_if_due
        self.save(name, arrays())


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, "utf-8")
