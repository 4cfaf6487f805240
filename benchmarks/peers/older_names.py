"""A checkpoint as transformers before 5.10 or so reads it: with ``text_model.`` before a text encoder's tensors.

Later versions save them without, and the earlier ones then start from random weights with no more than a warning.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

_OUTER = "text_model."
_KEPT = ("text_projection.", "__metadata__")


def renamed(header: dict[str, Any]) -> dict[str, Any]:
    """A text encoder's header of safetensors with the older names; one that has them stays as it is."""
    if any(name.startswith(_OUTER) for name in header):
        return header
    return {name if name.startswith(_KEPT) else _OUTER + name: entry for name, entry in header.items()}


def read_header(file: BinaryIO) -> dict[str, Any]:
    """The header of a file of safetensors: its size in eight bytes, then JSON; the data follow."""
    header: dict[str, Any] = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return header


def write_header(file: BinaryIO, header: dict[str, Any]) -> None:
    """The same, written; filled up with blanks so that the data are aligned."""
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)


def export(pipeline: Any, checkpoint: str, folder: Path, **options: Any) -> None:
    """Converts a checkpoint by the export of one of optimum's pipelines."""
    with with_older_names(checkpoint, folder) as older:
        pipeline.from_pretrained(older, export=True, safety_checker=None, **options).save_pretrained(folder)


@contextmanager
def with_older_names(checkpoint: str, near: Path) -> Iterator[str]:
    """A folder of links to a checkpoint in diffusers layout, but for its text encoders' weights.

    Args:
        checkpoint: the folder.
        near: a place on a disk with room for the text encoders.
    """
    with tempfile.TemporaryDirectory(dir=near.parent, prefix=".older-names-") as temporary:
        source, target = Path(checkpoint).resolve(), Path(temporary) / Path(checkpoint).name
        for path in sorted(source.rglob("*")):
            there = target / path.relative_to(source)
            if path.is_dir():
                continue
            there.parent.mkdir(parents=True, exist_ok=True)
            if path.suffix == ".safetensors" and path.parent.name.startswith("text_encoder"):
                with path.open("rb") as old, there.open("wb") as new:
                    write_header(new, renamed(read_header(old)))
                    shutil.copyfileobj(old, new, 1 << 24)
            else:
                os.symlink(path.resolve(), there)
        yield str(target)
