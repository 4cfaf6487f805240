"""JSON documents that carry the number of their schema: written, read and checked."""

import json
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from latentrt.engines.errors import LatentrtError
from latentrt.engines.files import sync_files, write_file

_Document = TypeVar("_Document", bound=BaseModel)


def write_document(path: Path, document: BaseModel) -> None:
    """Writes a document whole or not at all, onto the disk.

    Raises:
        OutputError: it cannot be written.
    """
    text = document.model_dump_json(indent=1) + "\n"
    write_file(path, lambda partial: partial.write_text(text, "utf-8"))
    sync_files([path])


def read_document(
    path: Path,
    kind: type[_Document],
    *,
    schema: int,
    error: type[LatentrtError],
    remedy: str,
) -> _Document:
    """Reads and validates a document.

    Args:
        path: the file.
        kind: the document's model, with a field ``schema_version``.
        schema: the version that is read.
        error: what is raised.
        remedy: what to do about a file that is refused.

    Raises:
        LatentrtError: as ``error``: the file is missing, cut short, not ours, of another schema, or damaged.
    """
    name = repr(str(path))
    try:
        content = path.read_bytes()
    except OSError as failure:
        raise error(f"cannot read {name} ({failure.strerror}); {remedy}") from failure
    return document_from_content(content, name, kind, schema=schema, error=error, remedy=remedy)


def document_from_content(
    content: bytes, name: str, kind: type[_Document], *, schema: int, error: type[LatentrtError], remedy: str
) -> _Document:
    """Validates a document's content; ``name`` is what messages call it, and the rest is as for ``read_document``.

    Raises:
        LatentrtError: as ``error``: it is cut short, not ours, of another schema, or damaged.
    """
    try:
        data: Any = json.loads(content)
    except (ValueError, RecursionError) as failure:
        raise error(f"{name} is cut short or not JSON; {remedy}") from failure
    version = data.get("schema_version") if isinstance(data, dict) else None
    if not isinstance(version, int) or isinstance(version, bool):
        raise error(f"{name} was not written by latentrt (it has no schema_version); {remedy}")
    if version != schema:
        newer = "update latentrt" if version > schema else remedy
        raise error(f"{name} has schema {version}, this latentrt reads schema {schema}; {newer}")
    try:
        return kind.model_validate(data)
    except (ValidationError, LatentrtError) as failure:
        first = failure.errors()[0] if isinstance(failure, ValidationError) else None
        reason = f"{'.'.join(map(str, first['loc'])) or 'the document'}: {first['msg']}" if first else str(failure)
        raise error(f"{name} was altered or is damaged ({' '.join(reason.split())}); {remedy}") from failure
