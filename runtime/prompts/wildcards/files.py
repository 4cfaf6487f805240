"""The files that ``__name__`` stands for: what a folder holds, and nothing outside of it.

Names, kinds of files and their entries are those of the package dynamicprompts: ``colors/warm.txt`` is
``__colors/warm__``, one entry a line; the lists in a ``.yaml`` or ``.json`` are named by their keys.
"""

import codecs
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatch
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

from latentrt.engines.errors import RequestError, shown
from latentrt.runtime.checks import warn_caller

_LARGEST = 8 * 2**20  # bytes of a file
_MOST_FILES = 20_000  # files and folders that are looked at
_MOST_LISTS = 20_000  # in one structured file, whose aliases can multiply what stands in it
_MOST_WEIGHT = 10_000.0
_LINES, _STRUCTURED = ".txt", (".yaml", ".json")
_MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))


@dataclass(frozen=True)
class Entry:
    """What a wildcard may become: a text, which may be a template itself, and how often it is chosen."""

    text: str
    weight: float = 1.0


class WildcardFiles:
    """The wildcards of a folder, by name. Text files are read when they are asked for."""

    def __init__(self, folder: Path | None) -> None:
        """Looks what is there.

        Args:
            folder: None: there are no files.

        Raises:
            RequestError: no such folder, or one with too much in it.
        """
        self._folder = folder
        self._lists: Mapping[str, Path | tuple[Entry, ...]] = {} if folder is None else dict(_lists(folder))
        self._found: dict[str, tuple[Entry, ...]] = {}

    def entries(self, wildcard: str) -> tuple[Entry, ...]:
        """The entries of all that a name or pattern (``colors/*``) matches, each text once, sorted.

        What matches nothing is looked for in folders below, as by dynamicprompts.

        Raises:
            RequestError: nothing has that name, or it has no entries.
        """
        if wildcard not in self._found:
            self._found[wildcard] = self._read(wildcard)
        return self._found[wildcard]

    def _read(self, wildcard: str) -> tuple[Entry, ...]:
        name = wildcard.strip().replace("\\", "/").strip("/")
        if self._folder is None:
            raise RequestError(
                f"got wildcard {_shown(name)} with wildcards='', which is for templates without files, expected a "
                "folder; give wildcards the one that has its file"
            )
        matched = self._matches(name) or self._matches(f"**/{name}")
        if not matched:
            raise RequestError(
                f"got wildcard {_shown(name)}, which nothing in the folder {str(self._folder)!r} is named, expected "
                f"{self._close(name)}; correct it, or add {' '.join(name.rpartition('/')[2].split()) or 'a'}.txt"
            )
        entries = dict.fromkeys(
            entry for held in matched for entry in (held if isinstance(held, tuple) else map(Entry, _lines(held)))
        )
        if not entries:
            raise RequestError(
                f"got wildcard {_shown(name)}, whose file has no entries, expected one a line; add some or leave it out"
            )
        return tuple(sorted(entries, key=lambda entry: entry.text))

    def _matches(self, pattern: str) -> list[Path | tuple[Entry, ...]]:
        return [held for name, held in self._lists.items() if fnmatch(name, pattern)]

    def _close(self, name: str) -> str:
        """Names that come close, or some that there are."""
        names = list(self._lists)
        lasts: dict[str, str] = {one.rpartition("/")[2]: one for one in names}
        close = get_close_matches(name, names, 3) or [
            lasts[one] for one in get_close_matches(name.rpartition("/")[2], lasts, 3)
        ]
        if not names:
            return "some .txt, .yaml or .json in it"
        return f"{'one such as ' if not close else ''}{' or '.join(f'__{one}__' for one in close or names[:3])}"


def _shown(name: str) -> str:
    return shown(f"__{name}__")


def _lists(folder: Path) -> Iterator[tuple[str, Path | tuple[Entry, ...]]]:
    """Every name in a folder, and its file or its entries. Links that lead out of the folder are left out."""
    root = None
    for path in _files(folder):
        root = root or folder.resolve()
        name = path.relative_to(folder).with_suffix("").as_posix()
        if path.suffix not in (_LINES, *_STRUCTURED) or not path.resolve().is_relative_to(root) or not path.is_file():
            continue
        if path.suffix == _LINES:
            yield name, path
            continue
        try:
            status = path.stat()
            lists = _structured(path, status.st_size, status.st_mtime_ns)
        except RequestError as error:
            warn_caller(f"{error} (it is left out)")
            continue
        prefix = path.parent.relative_to(folder).as_posix()
        for own, entries in lists:
            yield own if prefix == "." else f"{prefix}/{own}", entries


def _files(folder: Path) -> Iterator[Path]:
    """All files below a folder, in the same order on every system.

    Raises:
        RequestError: no folder, or one with too much in it.
    """
    try:
        os.scandir(folder).close()
    except (OSError, ValueError) as error:  # ValueError: zeros in the name
        reason = getattr(error, "strerror", None) or str(error)
        raise RequestError(
            f"got wildcards {str(folder)!r}, which cannot be read ({reason}), expected a folder with files such as "
            "color.txt; check the path"
        ) from error
    seen = 0
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        seen += len(folders) + len(names)
        if seen > _MOST_FILES:
            raise RequestError(
                f"got wildcards {str(folder)!r} with more than {_MOST_FILES} files in it, expected wildcards' files "
                "alone; name their folder"
            )
        for name in sorted(names):
            yield Path(place, name)


def _content(path: Path) -> str:
    """A file's text: UTF-8, or what a byte order mark says; what is none is left out, as by dynamicprompts.

    Raises:
        RequestError: it is too large, or cannot be read.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST + 1)
    except OSError as error:
        raise RequestError(f"cannot read the wildcards {str(path)!r} ({error.strerror}); check the file") from error
    if len(content) > _LARGEST:
        raise RequestError(
            f"got wildcards {str(path)!r} of more than {_LARGEST // 2**20} MB, expected less; split the file"
        )
    encoding = next((encoding for mark, encoding in _MARKS if content.startswith(mark)), "utf-8")
    return content.decode(encoding, errors="ignore")


def _lines(path: Path) -> list[str]:
    """The lines of a text file but for empty ones and comments (``#``)."""
    lines = map(str.strip, _content(path).splitlines())
    return [line for line in lines if line and not line.startswith("#")]


@lru_cache(maxsize=1024)  # YAML is slow to read, and calls come one after the other
def _structured(path: Path, size: int, changed: int) -> tuple[tuple[str, tuple[Entry, ...]], ...]:
    """The lists of a YAML or JSON file by name, as dynamicprompts reads them.

    Args:
        path: the file.
        size: in bytes; with ``changed`` what tells that the file is another than before.
        changed: when, in nanoseconds.

    Raises:
        RequestError: it cannot be read.
    """
    from dynamicprompts.wildcards.collection.structured import parse_structured_file

    _content(path)  # checks its size
    try:
        found = list(islice(parse_structured_file(path), _MOST_LISTS + 1))
        lists = tuple((name, tuple(map(_entry, held.get_values()))) for name, held in found)
    except (Exception, RecursionError) as error:  # of json, yaml and the reader, whatever is wrong with the file
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise RequestError(
            f"cannot read the wildcards {str(path)!r} ({reason}); correct the file, or take it away"
        ) from error
    if len(lists) > _MOST_LISTS:
        raise RequestError(
            f"got wildcards {str(path)!r} with more than {_MOST_LISTS} lists, expected fewer; split the file"
        )
    return lists


def _entry(item: Any) -> Entry:
    """A text, or the package's text with a weight.

    Raises:
        ValueError: a weight that is none.
    """
    weight = float(getattr(item, "weight", 1.0))
    if not 0.0 <= weight <= _MOST_WEIGHT:
        raise ValueError(f"weight {weight:g} of {str(item)[:60]!r}, expected 0 to {_MOST_WEIGHT:g}")
    return Entry(str(item), weight)
