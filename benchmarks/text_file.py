"""A text on disk, whole or not at all."""

from pathlib import Path

from latentrt.engines.files import write_file


def write_text(path: Path, text: str) -> None:
    """Writes it in UTF-8.

    Raises:
        OutputError: it cannot be written; what stood there before is unchanged.
    """

    def write(temporary: Path) -> None:
        temporary.write_text(text, "utf-8")

    write_file(path, write)
