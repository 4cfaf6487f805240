"""The comment of an mp4, read without a library.

A box is its length, a name of four bytes, and what it holds (ISO/IEC 14496-12, 4.2). Players and FFmpeg have the
comment in ``moov/udta/meta/ilst/©cmt/data``, as Apple's files do.
"""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import IO

_HEADER, _LARGE = struct.Struct(">I4s"), struct.Struct(">Q")
_PATH = (b"moov", b"udta", b"meta", b"ilst", b"\xa9cmt", b"data")
_IN_FRONT = {b"meta": 4, b"data": 8}  # bytes before what a box holds: version; type and language
_LONGEST = 2**24  # bytes of a comment that are read


def is_mp4(path: Path) -> bool:
    """Whether a file begins as an mp4 does.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        return file.read(8)[4:] == b"ftyp"


def mp4_comment(path: Path) -> str | None:
    """The text of the comment; None where there is none, or the boxes are damaged.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        end = file.seek(0, 2)
        start = 0
        for name in _PATH:
            found = next((box for box in _boxes(file, start, end) if box[0] == name), None)
            if found is None:
                return None
            _, start, end = found
            start += _IN_FRONT.get(name, 0)
        file.seek(start)
        return file.read(min(max(end - start, 0), _LONGEST)).decode("utf-8", "replace") or None


def _boxes(file: IO[bytes], start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Each box between two places of a file: its name, and where what it holds begins and ends."""
    while start + _HEADER.size <= end:
        file.seek(start)
        length, name = _HEADER.unpack(file.read(_HEADER.size))
        header = _HEADER.size
        if length == 1:
            large = file.read(_LARGE.size)
            if len(large) < _LARGE.size:
                return
            (length,) = _LARGE.unpack(large)
            header += _LARGE.size
        stop = end if length == 0 else start + length  # 0: to the end
        if stop < start + header or stop > end:
            return
        yield name, start + header, stop
        start = stop
