"""Pictures in requests and answers: what a client sends is looked at before it is decoded."""

import binascii
import re
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping
from enum import StrEnum
from io import BytesIO
from typing import TypeVar

from PIL import Image
from PIL.ImageOps import exif_transpose

from latentrt.engines.errors import RequestError
from latentrt.runtime.call.result import Result
from latentrt.runtime.pictures.image import rgb_from_image
from latentrt.runtime.pictures.picture_file import PictureFormat as PictureFormat
from latentrt.runtime.pictures.picture_file import parameters_in, picture_bytes
from latentrt.runtime.serving.http.settings import PictureLimits

__all__ = [
    "PictureFormat",
    "data_url",
    "encoded",
    "parameters_from_text",
    "picture_from_bytes",
    "picture_from_text",
    "pictures_of",
    "text_from_picture",
]

_Read = TypeVar("_Read")
Image.preinit()  # else the first picture of a server would wait for the formats
_SPACE = str.maketrans("", "", " \t\r\n")
_DATA_URL = re.compile(r"data:[\w.+-]{0,64}/?[\w.+-]{0,64}(?:;[\w=.+-]{0,64}){0,4};base64,", re.ASCII)
_PLAIN = ("L", "RGB", "RGBA")


class _Kind(StrEnum):
    PNG = "PNG"
    JPEG = "JPEG"
    WEBP = "WEBP"


def picture_from_text(text: str, limits: PictureLimits, name: str = "image") -> Image.Image:
    """The picture in a base64 text or a data URL.

    Args:
        text: as the client sent it.
        limits: of the file and of its pixels.
        name: of the field, for messages.

    Raises:
        RequestError: something else, or more than is allowed.
    """
    return picture_from_bytes(_bytes_from_text(text, limits, name), limits, name)


def parameters_from_text(text: str, limits: PictureLimits, name: str = "image") -> str | None:
    """The settings in a picture, as A1111 and others write them; None where there are none.

    Args:
        text: base64 or a data URL, as ``picture_from_text`` takes it.
        limits: of the file and of its pixels.
        name: of the field, for messages.

    Raises:
        RequestError: something else, or more than is allowed.
    """
    data = _bytes_from_text(text, limits, name)
    return _read(data, limits, name, parameters_in)


def picture_from_bytes(data: bytes, limits: PictureLimits, name: str = "image") -> Image.Image:
    """The picture in a file's bytes: upright, as L, RGB or RGBA, without whatever else the file has.

    Args:
        data: a PNG, JPEG or WebP.
        limits: of the file and of its pixels.
        name: of the field, for messages.

    Raises:
        RequestError: something else, an animation, or more than is allowed; nothing of it was decoded.
    """
    return _read(data, limits, name, _loaded)


def _bytes_from_text(text: str, limits: PictureLimits, name: str) -> bytes:
    """A file's bytes, from base64 or a data URL."""
    beginning = _DATA_URL.match(text)
    if beginning is None and ":" in text[:16]:
        raise RequestError(
            f"got an address as {name}, expected the picture itself; send it as base64, nothing is fetched"
        )
    # Four characters have three bytes; line breaks and padding are little against the rest
    if len(text) > limits.bytes * 4 // 3 + 1024 + len(text) // 32:
        raise _too_many_bytes(name, limits)
    encoded_part = text[beginning.end() :] if beginning else text
    try:
        return b64decode(encoded_part.translate(_SPACE), validate=True)
    except (binascii.Error, ValueError) as error:  # ValueError: characters beyond ASCII
        raise RequestError(f"got {name} that is no base64, expected a picture in it; encode the file") from error


def _read(data: bytes, limits: PictureLimits, name: str, read: Callable[[Image.Image], _Read]) -> _Read:
    """What is read of a file that passed the checks.

    Raises:
        RequestError: no picture, a damaged one, or more than is allowed.
    """
    if len(data) > limits.bytes:
        raise _too_many_bytes(name, limits)
    kind = _kind(data)
    if kind is None:
        raise RequestError(f"got {name} of another format, expected a PNG, JPEG or WebP; convert it")
    try:
        with Image.open(BytesIO(data), formats=(kind,)) as opened:
            _check(opened, kind, limits, name)
            return read(opened)
    except RequestError:
        raise
    except Image.DecompressionBombError as error:
        raise _too_many_pixels(name, limits) from error
    except Exception as error:  # damaged files raise anything, from struct's errors to Pillow's
        raise RequestError(f"got {name}, a damaged {kind}, expected a whole one; encode it again") from error


def _loaded(opened: Image.Image) -> Image.Image:
    opened.load()
    return _plain(opened)


def _check(opened: Image.Image, kind: _Kind, limits: PictureLimits, name: str) -> None:
    """Refuses what its header says, before a pixel is decoded."""
    width, height = opened.size
    if width * height > limits.pixels:
        raise _too_many_pixels(name, limits, f" ({width}x{height})")
    if kind is not _Kind.JPEG and getattr(opened, "n_frames", 1) != 1:  # a camera's JPEG may hold a small copy
        raise RequestError(f"got {name} with several frames, expected one; send a still picture")


def _plain(opened: Image.Image) -> Image.Image:
    try:
        upright = exif_transpose(opened)
    except Exception:  # damaged EXIF data can raise anything, and the pixels are whole without
        upright = opened
    if upright.has_transparency_data:
        upright = upright.convert("RGBA")
    elif upright.mode not in _PLAIN:
        upright = rgb_from_image(upright)
    plain = Image.new(upright.mode, upright.size)  # has no metadata
    plain.paste(upright)
    return plain


def _kind(data: bytes) -> _Kind | None:
    """The format, by the first bytes; what a client calls it does not count."""
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return _Kind.PNG
    if data.startswith(b"\xff\xd8\xff"):
        return _Kind.JPEG
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return _Kind.WEBP
    return None


def _too_many_pixels(name: str, limits: PictureLimits, size: str = "") -> RequestError:
    return RequestError(
        f"got {name} of more than {limits.pixels} pixels{size}, expected {limits.pixels} at most; send a smaller one"
    )


def _too_many_bytes(name: str, limits: PictureLimits) -> RequestError:
    return RequestError(f"got {name} of more than {limits.bytes} bytes, expected {limits.bytes} at most; compress it")


def pictures_of(result: Result) -> list[Image.Image]:
    """The pictures of a result; an order never asks for arrays."""
    return [image for image in result.images if isinstance(image, Image.Image)]


def encoded(
    image: Image.Image, format: PictureFormat, parameters: str | None = None, *, quality: int | None = None
) -> bytes:
    """A picture as the bytes of a file.

    Args:
        image: the picture.
        format: of the file.
        parameters: the settings that drew it, which the file has where A1111's have them; None: none.
        quality: 0 to 100, of JPEG and WebP; None: 95.
    """
    return picture_bytes(image, format, parameters, quality=quality)


def text_from_picture(image: Image.Image, parameters: str | None = None) -> str:
    """A PNG in base64."""
    return b64encode(encoded(image, PictureFormat.PNG, parameters)).decode("ascii")


MEDIA_TYPES: Mapping[PictureFormat, str] = {one: f"image/{one}" for one in PictureFormat}
"""What HTTP calls a format."""


def data_url(image: Image.Image, format: PictureFormat = PictureFormat.PNG) -> str:
    """A picture as a URL that holds it."""
    return f"data:{MEDIA_TYPES[format]};base64,{b64encode(encoded(image, format)).decode('ascii')}"
