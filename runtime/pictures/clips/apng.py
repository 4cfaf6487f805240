"""Clips as animated PNG: a PNG whose further pictures stand in chunks of their own (PNG, third edition, 4.9).

Pillow writes them, too, but before version 13 in whole milliseconds, and equal pictures as one.
"""

import struct
import zlib
from collections.abc import Iterator, Sequence
from fractions import Fraction
from io import BytesIO
from pathlib import Path
from typing import IO

from PIL import Image

from latentrt.runtime.pictures.image import png_info

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_LENGTH = struct.Struct(">I")
_CONTROL = struct.Struct(">IIIIIHHBB")  # number, width, height, two offsets, delay's fraction, disposal, blending
_FOREVER = 0
_LARGEST = 2**16 - 1  # of both parts of a delay


def save_apng(path: Path, frames: Sequence[Image.Image], rate: Fraction, parameters: str | None) -> None:
    """An APNG that begins anew when it ends; the settings are its text chunk ``parameters``, as in a PNG.

    Args:
        path: the file.
        frames: RGB pictures of one size.
        rate: frames per second; how long one is shown is written as a fraction.
        parameters: the settings.
    """
    delay = (1 / rate).limit_denominator(_LARGEST)
    number = 0
    with path.open("wb") as file:
        file.write(_SIGNATURE)
        for index, frame in enumerate(frames):
            control = _CONTROL.pack(number, *frame.size, 0, 0, *delay.as_integer_ratio(), 0, 0)
            number, begun = number + 1, False
            for name, content in _chunks(frame, parameters if index == 0 else None):
                if name == b"IDAT" and not begun:
                    begun = True
                    if index == 0:
                        _write_chunk(file, b"acTL", struct.pack(">II", len(frames), _FOREVER))
                    _write_chunk(file, b"fcTL", control)
                if index == 0 and name != b"IEND":
                    _write_chunk(file, name, content)
                elif name == b"IDAT":
                    _write_chunk(file, b"fdAT", _LENGTH.pack(number) + content)
                    number += 1
        _write_chunk(file, b"IEND", b"")


def _chunks(frame: Image.Image, parameters: str | None) -> Iterator[tuple[bytes, bytes]]:
    """Names and contents of the chunks of a frame's PNG."""
    buffer = BytesIO()
    frame.save(buffer, format="PNG", pnginfo=png_info(parameters))
    data, at = buffer.getvalue(), len(_SIGNATURE)
    while at < len(data):
        (length,) = _LENGTH.unpack_from(data, at)
        yield data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        at += length + 12  # length, name and checksum


def _write_chunk(file: IO[bytes], name: bytes, content: bytes) -> None:
    file.write(_LENGTH.pack(len(content)) + name + content + _LENGTH.pack(zlib.crc32(name + content)))
