"""Picture files with the settings that drew them, where AUTOMATIC1111's web UI has them.

A PNG has them as the text chunk ``parameters``; a JPEG or a WebP as ``UserComment`` of its EXIF data, eight bytes that
name the encoding and then UTF-16 with the high byte first, which is how piexif writes and reads it (Exif 2.32, 4.6.5).
Of clips, which ``clips`` writes, a GIF and an mp4 have them as their comment.
"""

import json
import re
import struct
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from enum import StrEnum
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError

from latentrt.engines.errors import RequestError
from latentrt.engines.files import write_file
from latentrt.runtime.checks import warn_caller
from latentrt.runtime.pictures.image import png_info, rgb_from_image, write_png

_QUALITY = 95  # of 100, for JPEG and WebP
_EXIF, _USER_COMMENT = 0x8769, 0x9286  # tags
_LONG, _UNDEFINED = 4, 7  # types of their values
_TIFF = b"MM\0*\0\0\0\x08"  # numbers have the high byte first, and the first directory begins behind this
_DIRECTORY = struct.Struct(">HHHIII")  # of one entry: how many, its tag, type, count and offset; no further directory
_UNICODE, _ASCII, _JIS = b"UNICODE\0", b"ASCII\0\0\0", b"JIS\0\0\0\0\0"
_LARGEST_APP1 = 65533  # bytes of a JPEG's EXIF segment: its length has 16 bits and counts itself

# As A1111 reads them (modules/infotext_utils.py), with a bound for the keys: a file may hold a megabyte without a colon
_PAIR = re.compile(r'\s*(\w[\w \-/]{1,80}):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')
_FEWEST_PAIRS = 3  # in a line of settings


class PictureFormat(StrEnum):
    """The formats of pictures that are written."""

    PNG = "png"
    JPEG = "jpeg"
    WEBP = "webp"


def write_picture(path: Path, image: Image.Image, parameters: str | None = None) -> None:
    """Writes a picture whole or not at all, in the format that its name ends in, with its settings if there are any.

    Raises:
        RequestError: a name that ends in something else.
        OutputError: the file cannot be written.
    """
    check_picture_name(path)
    _WRITERS[path.suffix.lower()](path, image, parameters)


def check_picture_name(path: Path) -> None:
    """Refuses names of other formats than those that are written.

    Raises:
        RequestError: it ends in none of their suffixes.
    """
    if path.suffix.lower() not in _WRITERS:
        raise RequestError(
            f"got output {str(path)!r}, expected a name that ends in {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}; "
            "add .png"
        )


def numbered_paths(path: Path, count: int) -> list[Path]:
    """The files of so many pictures: one has the name itself, several have ``-0``, ``-1``, … before the suffix."""
    return [path] if count == 1 else [path.with_stem(f"{path.stem}-{index}") for index in range(count)]


def read_parameters(path: str | Path) -> str | None:
    """The settings in a PNG, JPEG or WebP as A1111 and others write them: prompt, negative prompt, a line of pairs.

    Those of a clip, which may be a GIF or an mp4, too.

    Returns:
        The text as it stands in the file; None where there is none.

    Raises:
        RequestError: the file is missing, or no picture.
    """
    from latentrt.runtime.pictures.clips.mp4_comment import is_mp4, mp4_comment  # drawing needs none of it

    path = Path(path)
    try:
        if is_mp4(path):
            return mp4_comment(path)
        with Image.open(path) as image:
            return parameters_in(image)
    except UnidentifiedImageError as error:
        raise RequestError(f"got {str(path)!r}, expected a picture file; give a PNG, JPEG or WebP") from error
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise RequestError(f"cannot read the picture {str(path)!r} ({reason}); check the file") from error


def parameters_in(image: Image.Image) -> str | None:
    """The same of a file that Pillow has opened.

    Raises:
        Exception: what Pillow raises of damaged pixels.
    """
    with warnings.catch_warnings(action="ignore"):  # Pillow's, of damaged EXIF data
        if image.format == "PNG":
            image.load()  # text may stand behind the pixels
        text = image.info.get("parameters")
        comment = image.info.get("comment") if image.format == "GIF" else _user_comment(image)
    return _text(comment) or (text if isinstance(text, str) and text else None)


def settings_from_parameters(parameters: str) -> dict[str, str]:
    """The pairs of a ``parameters`` text, with "Prompt" and "Negative prompt", read as A1111 reads them."""
    *lines, last = parameters.strip().split("\n")
    pairs = _PAIR.findall(last)
    if len(pairs) < _FEWEST_PAIRS:
        lines, pairs = [*lines, last], []
    found: dict[str, list[str]] = {"Prompt": [], "Negative prompt": []}
    side = "Prompt"
    for line in map(str.strip, lines):
        if line.startswith("Negative prompt:"):
            side, line = "Negative prompt", line.removeprefix("Negative prompt:").strip()
        found[side].append(line)
    return {side: "\n".join(text) for side, text in found.items()} | {key: _unquoted(value) for key, value in pairs}


def _user_comment(image: Image.Image) -> Any:
    with suppress(Exception):  # damaged EXIF data can raise anything, and the picture is whole without
        return image.getexif().get_ifd(_EXIF).get(_USER_COMMENT)
    return None


def _unquoted(value: str) -> str:
    try:
        return str(json.loads(value)) if value.startswith('"') else value
    except ValueError:
        return value


def _text(comment: Any) -> str | None:
    """A user comment's text; None where there is none."""
    if isinstance(comment, str):
        return comment.strip("\0 ") or None
    if not isinstance(comment, bytes):
        return None
    encoding, body = comment[:8], comment[8:]
    if encoding == _UNICODE:
        # The byte order is nowhere stated; others than piexif write the low byte first
        low_first = sum(map(bool, body[1::2])) < sum(map(bool, body[::2]))
        text = body.decode("utf-16-le" if low_first else "utf-16-be", "replace").removeprefix("\ufeff")
    elif encoding == _JIS:
        text = body.decode("shift_jis", "replace")
    else:
        text = (body if encoding in (_ASCII, bytes(8)) else comment).decode("utf-8", "replace")
    return text.strip("\0 ") or None


def exif_from_parameters(parameters: str | None) -> bytes:
    """EXIF data with a user comment and nothing else; nothing without one.

    Pillow would write the comment as BYTE, which piexif takes for a tuple of numbers; the standard wants UNDEFINED.
    """
    if parameters is None:
        return b""
    comment = _UNICODE + parameters.encode("utf-16-be", "replace")
    pointer = _DIRECTORY.pack(1, _EXIF, _LONG, 1, len(_TIFF) + _DIRECTORY.size, 0)
    entry = _DIRECTORY.pack(1, _USER_COMMENT, _UNDEFINED, len(comment), len(_TIFF) + 2 * _DIRECTORY.size, 0)
    return b"Exif\0\0" + _TIFF + pointer + entry + comment


def picture_bytes(
    image: Image.Image, format: PictureFormat, parameters: str | None = None, *, quality: int | None = None
) -> bytes:
    """A picture as the bytes of a file, with its settings if there are any.

    Args:
        image: the picture; a PNG keeps its mode, the others are RGB.
        format: of the file.
        parameters: the settings.
        quality: 0 to 100, of JPEG and WebP; None: 95.
    """
    buffer = BytesIO()
    if format is PictureFormat.PNG:
        image.save(buffer, format="PNG", pnginfo=png_info(parameters))
    else:
        _save(buffer, image, format, parameters, quality=quality)
    return buffer.getvalue()


def _write_jpeg(path: Path, image: Image.Image, parameters: str | None) -> None:
    _write(path, image, PictureFormat.JPEG, parameters)


def _write_webp(path: Path, image: Image.Image, parameters: str | None) -> None:
    _write(path, image, PictureFormat.WEBP, parameters)


def _write(path: Path, image: Image.Image, format: PictureFormat, parameters: str | None) -> None:
    write_file(path, lambda temporary: _save(temporary, image, format, parameters, name=path.name))


def _save(
    target: Path | BytesIO,
    image: Image.Image,
    format: PictureFormat,
    parameters: str | None,
    *,
    quality: int | None = None,
    name: str = "",
) -> None:
    """Writes a JPEG or a WebP; the name is for messages."""
    exif, options = exif_from_parameters(parameters), {"subsampling": 0} if format is PictureFormat.JPEG else {}
    if format is PictureFormat.JPEG and len(exif) > _LARGEST_APP1:
        warn_caller(f"the settings are too long for the JPEG {name!r} and were left out; write PNG or WebP")
        exif = b""
    chosen = _QUALITY if quality is None else quality
    rgb_from_image(image).save(target, format=format.upper(), quality=chosen, exif=exif, **options)


_WRITERS: Mapping[str, Callable[[Path, Image.Image, str | None], None]] = {
    ".png": write_png,
    ".jpg": _write_jpeg,
    ".jpeg": _write_jpeg,
    ".webp": _write_webp,
}
SUFFIXES = tuple(_WRITERS)
"""What a picture's name may end in, in lower case."""
