"""Pictures in requests: looked at before they are decoded."""

import struct
import zlib
from base64 import b64encode
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from latentrt.engines.errors import RequestError
from latentrt.runtime.pictures.picture_file import PictureFormat
from latentrt.runtime.serving.http.pictures import (
    data_url,
    encoded,
    picture_from_bytes,
    picture_from_text,
    text_from_picture,
)
from latentrt.runtime.serving.http.settings import PictureLimits

LIMITS = PictureLimits(bytes=100_000, pixels=64 * 64)
NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 48, 3), np.uint8))


def file_of(image: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    buffer = BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_of_size(width: int, height: int) -> bytes:
    """A header that tells a size, and few bytes behind it."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(64))) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    "text", ["{}", "data:image/png;base64,{}", "data:;base64,{}", "data:image/png;name=a.png;base64,{}"]
)
def test_base64_and_data_urls(text: str) -> None:
    """The pixels come through, also with line breaks in between."""
    code = b64encode(file_of(NOISE)).decode()
    lines = "\r\n".join(code[i : i + 76] for i in range(0, len(code), 76))
    for body in (code, lines):
        assert np.array_equal(picture_from_text(text.format(body), LIMITS), NOISE)


@pytest.mark.parametrize("format", ["PNG", "WEBP", "JPEG"])
def test_formats(format: str) -> None:
    """Those that are written are read; what the client calls it does not count."""
    lossless = {"lossless": True} if format == "WEBP" else {}
    read = picture_from_text("data:image/gif;base64," + b64encode(file_of(NOISE, format, **lossless)).decode(), LIMITS)
    assert (read.mode, read.size) == ("RGB", (48, 32))
    assert format == "JPEG" or np.array_equal(read, NOISE)


def test_modes() -> None:
    """Transparency stays; palettes, 16 bits and CMYK become what can be drawn from."""
    clear = Image.new("RGBA", (8, 8), (1, 2, 3, 0))
    assert picture_from_bytes(file_of(clear), LIMITS).getpixel((0, 0)) == (1, 2, 3, 0)
    palette = Image.new("P", (8, 8))
    assert picture_from_bytes(file_of(palette, transparency=0), LIMITS).mode == "RGBA"
    assert picture_from_bytes(file_of(palette), LIMITS).mode == "RGB"
    deep = Image.fromarray(np.full((8, 8), 65535, np.uint16))
    assert picture_from_bytes(file_of(deep), LIMITS).getpixel((0, 0)) == (255, 255, 255)
    assert picture_from_bytes(file_of(Image.new("CMYK", (8, 8)), "JPEG"), LIMITS).mode == "RGB"
    assert picture_from_bytes(file_of(Image.new("1", (8, 8), 1)), LIMITS).convert("L").getpixel((0, 0)) == 255


def test_whatever_else_is_in_the_file_is_left() -> None:
    """Texts, profiles and EXIF data; the orientation was applied."""
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010F] = "a camera"
    text = PngInfo()
    text.add_text("parameters", "secret")
    data = file_of(NOISE, pnginfo=text, exif=exif, icc_profile=b"profile" * 20)
    read = picture_from_bytes(data, LIMITS)
    assert (read.size, read.info, dict(read.getexif())) == ((32, 48), {}, {})
    assert np.array_equal(read, np.rot90(np.asarray(NOISE), -1))


SECOND: dict[str, Any] = {"save_all": True, "append_images": [Image.new("RGB", NOISE.size)]}
HOSTILE: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "another format"),
    "gif": (file_of(NOISE, "GIF"), "another format"),
    "svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "another format"),
    "pickle": (b"\x80\x04N.", "another format"),
    "tiff-in-png": (b"\x89PNG\r\n\x1a\n" + file_of(NOISE, "TIFF"), "damaged"),
    "cut": (file_of(NOISE)[:500], "damaged"),
    "cut-jpeg": (file_of(NOISE, "JPEG")[:200], "damaged"),
    "cut-webp": (file_of(NOISE, "WEBP")[:200], "damaged"),
    "header": (b"\x89PNG\r\n\x1a\n", "damaged"),
    "bomb": (png_of_size(60_000, 60_000), "more than 4096 pixels"),
    "no-pixels": (png_of_size(0, 5), "damaged"),
    "too-few-pixels": (png_of_size(64, 64), "damaged"),
    "many-pixels": (file_of(Image.new("RGB", (65, 64))), r"more than 4096 pixels \(65x64\), expected"),
    "many-bytes": (bytes(100_001), "more than 100000 bytes"),
    "apng": (file_of(NOISE, **SECOND), "several frames"),
    "moving-webp": (file_of(NOISE, "WEBP", **SECOND), "several frames"),
    "text-bomb": (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 8, 2, 0, 0, 0))
        + chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(30 << 20), 9))
        + chunk(b"IDAT", zlib.compress(bytes(8 * 25)))
        + chunk(b"IEND", b""),
        "damaged",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files(name: str) -> None:
    """Each is refused with what it is, and how to mend it."""
    data, message = HOSTILE[name]
    with pytest.raises(RequestError, match=message):
        picture_from_bytes(data, LIMITS)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("https://example.com/a.png", "nothing is fetched"),
        ("file:///etc/passwd", "nothing is fetched"),
        ("/etc/passwd", "no base64|another format"),
        ("data:image/png,abc", "nothing is fetched"),
        ("data:image/png;base64,!!!!", "no base64"),
        ("é" * 8, "no base64"),
        ("abc", "no base64"),
        ("data:" + ";a=b" * 100_000 + ";base64,aaaa", "nothing is fetched|more than"),
        ("A" * 200_000, "more than 100000 bytes"),
    ],
)
def test_texts_that_are_no_pictures(text: str, message: str) -> None:
    """Nothing is fetched, opened or decoded."""
    with pytest.raises(RequestError, match=message):
        picture_from_text(text, LIMITS, "init_image")


@pytest.mark.parametrize("format", PictureFormat)
def test_written_pictures_have_their_settings(format: PictureFormat, tmp_path: Any) -> None:
    """As files of the command line have them."""
    from latentrt.runtime.pictures.picture_file import read_parameters

    path = tmp_path / "picture"
    path.write_bytes(encoded(NOISE, format, "a cat\nSteps: 3"))
    assert read_parameters(path) == "a cat\nSteps: 3"
    assert len(encoded(NOISE, PictureFormat.JPEG, quality=10)) < len(encoded(NOISE, PictureFormat.JPEG))


def test_texts_of_pictures() -> None:
    """What is sent can be sent back."""
    assert np.array_equal(picture_from_text(text_from_picture(NOISE), LIMITS), NOISE)
    assert np.array_equal(picture_from_text(data_url(NOISE), LIMITS), NOISE)
