"""Requests that harm: too large, endless, bombs, and whatever else no client means. Each deserves a 4xx, or a closed
connection where the protocol itself is broken; never a 5xx, never a picture."""

import base64
import io
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from PIL import Image, PngImagePlugin

from latentrt.benchmarks.serving.asked import source_picture
from latentrt.benchmarks.serving.chaos.raw import head, post, post_json

JOBS, GENERATIONS, EDITS, TXT2IMG, IMG2IMG = (
    "/v1/jobs", "/v1/images/generations", "/v1/images/edits", "/sdapi/v1/txt2img", "/sdapi/v1/img2img"
)  # fmt: skip
_MEGABYTE = b"a" * (1 << 20)
_ENDLESS = 4096  # megabytes: more than any server should take
_GIGA = 10**9


@dataclass(frozen=True, kw_only=True)
class Hostile:
    """A request in pieces, made anew each time; ``name`` says what is wrong with it."""

    name: str
    pieces: Callable[[], Iterable[bytes]]


def hostile_requests() -> list[Hostile]:
    """All of them."""
    return [
        *(Hostile(name=name, pieces=pieces) for name, pieces in _streams()),
        *(Hostile(name=name, pieces=lambda one=one: [one]) for name, one in (*_texts(), *_values(), *_protocol())),  # type: ignore[misc]
        *(Hostile(name=f"{name}, {where}", pieces=lambda one=one: [one]) for name, where, one in _pictures()),  # type: ignore[misc]
    ]


def _streams() -> Iterator[tuple[str, Callable[[], Iterable[bytes]]]]:
    """Bodies that are announced too large, or do not end."""
    large = f"Content-Length: {10 * _GIGA}"
    for path in (JOBS, GENERATIONS, TXT2IMG):
        announced = head("POST", path, "Content-Type: application/json", large)
        yield f"10 GB announced to {path}", lambda announced=announced: [announced, b'{"prompt": "']  # type: ignore[misc]

    def endless(path: str, kind: str, first: bytes) -> Iterator[bytes]:
        yield head("POST", path, f"Content-Type: {kind}", "Transfer-Encoding: chunked")
        yield b"%x\r\n%s\r\n" % (len(first), first)
        for _ in range(_ENDLESS):
            yield b"100000\r\n" + _MEGABYTE + b"\r\n"

    form = b'--x\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n'
    yield "endless JSON", lambda: endless(JOBS, "application/json", b'{"prompt": "')
    yield "endless JSON at a sync route", lambda: endless(GENERATIONS, "application/json", b'{"prompt": "')
    yield "an endless file in a form", lambda: endless(EDITS, "multipart/form-data; boundary=x", form)


def _texts() -> Iterator[tuple[str, bytes]]:
    """Bodies that are no JSON of ours."""
    yield "no body", post(JOBS, b"")
    yield "half an object", post(JOBS, b'{"prompt": "a')
    yield "100,000 lists in lists", post(JOBS, b"[" * 100_000)
    yield "100,000 objects in objects", post(JOBS, b'{"hires":' * 100_000)
    yield "lists in lists at a sync route", post(GENERATIONS, b'{"prompt": ' + b"[" * 100_000 + b"]" * 100_000 + b"}")
    yield "a number of 100,000 digits", post(JOBS, b'{"prompt": "a", "seed": ' + b"9" * 100_000 + b"}")
    yield "not UTF-8", post(JOBS, b'{"prompt": "\xff\xfe\xc3"}')
    yield "not UTF-8 at a sync route", post(GENERATIONS, b'{"prompt": "\xff\xfe\xc3"}')
    yield "half a surrogate pair", post(JOBS, b'{"prompt": "\\ud800"}')
    yield "a list", post(JOBS, b"[]")
    yield "a form where JSON is expected", post(JOBS, b"prompt=a", kind="application/x-www-form-urlencoded")
    yield "compressed JSON", post(JOBS, zlib.compress(b'{"prompt": "a"}'), "Content-Encoding: deflate")
    yield "a form without a boundary", post(EDITS, b"--x\r\n", kind="multipart/form-data")
    parts = b"".join(b'--x\r\nContent-Disposition: form-data; name="a%d"\r\n\r\n1\r\n' % n for n in range(20_000))
    yield "a form of 20,000 fields", post(EDITS, parts + b"--x--\r\n", kind="multipart/form-data; boundary=x")


def _values() -> Iterator[tuple[str, bytes]]:
    """Objects whose values are not to be drawn."""
    wrong: dict[str, Any] = {
        "a prompt of 2 MB": {"prompt": "a " * (1 << 20)},
        "a prompt that is a number": {"prompt": 7},
        "10⁹ pixels wide": {"width": _GIGA, "height": _GIGA},
        "10⁹ steps": {"num_inference_steps": _GIGA},
        "10⁹ pictures": {"num_images_per_prompt": _GIGA},
        "-1 steps": {"num_inference_steps": -1},
        "a seed beyond 64 bits": {"seed": 1 << 70},
        "a LoRA that is a path": {"loras": {"../../../etc/passwd": 1.0}},
        "a LoRA in a prompt that is a path": {"prompt": "<lora:/etc/passwd:1>", "prompt_syntax": "a1111"},
        "a model that is a path": {"model": "/etc/passwd"},
        "an upscaler that is a path": {"hires": {"upscaler": "/etc/passwd"}},
        "a net that is a path": {"control": {"net": "/etc", "image": "AAAA"}},
        "an address as a picture": {"image": "http://127.0.0.1:9/a.png"},
        "a file as a picture": {"image": "file:///etc/passwd"},
        "unknown fields": {"pickle": "gASVAAAA"},
    }
    for name, fields in wrong.items():
        yield name, post_json(JOBS, {"prompt": "a", "width": 64, "height": 64, **fields})
    for number in ("NaN", "Infinity", "1e999"):
        yield f"guidance {number}", post(JOBS, b'{"prompt": "a", "guidance_scale": %s}' % number.encode())
    endless = {"pag_scale": 1.0, "pag_applied_layers": "(a+)+$"}
    yield "an expression that is searched for ever", post_json(GENERATIONS, {"prompt": "a", **endless})
    yield "10⁹ pictures at a sync route", post_json(GENERATIONS, {"prompt": "a", "n": _GIGA})
    yield "10⁹ steps at a sync route", post_json(TXT2IMG, {"prompt": "a", "steps": _GIGA})


def _protocol() -> Iterator[tuple[str, bytes]]:
    """What is hardly HTTP."""
    flood = [f"X-Flood-{number}: {'a' * 100}" for number in range(2000)]
    yield "2,000 headers", head("POST", JOBS, "Content-Length: 0", "Connection: close", *flood)
    yield "a header of 1 MB", head("POST", JOBS, "Content-Length: 0", "Connection: close", "X-Long: " + "a" * (1 << 20))
    yield "a path of 1 MB", head("GET", "/" + "a" * (1 << 20), "Connection: close")
    yield "a negative length", head("POST", JOBS, "Content-Length: -1", "Connection: close")
    yield "two lengths", head("POST", JOBS, "Content-Length: 3", "Content-Length: 4", "Connection: close") + b"{}aa"
    yield "no HTTP", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200) + b"\r\n\r\n"
    yield "an unknown method", head("BREW", JOBS, "Content-Length: 0", "Connection: close")
    yield "a path out of the page's folder", head("GET", "/page/../../../../etc/passwd", "Connection: close")


def _pictures() -> Iterator[tuple[str, str, bytes]]:
    """Pictures that are bombs, damaged, or none, by every way in."""
    bombs = {
        "a PNG of 30,000 × 30,000": _png(30_000, 30_000),
        "a PNG that says it is of 2³¹ × 2³¹": _png_header(2**31 - 1, 2**31 - 1),
        "a PNG with a text of 100 MB": _png_with_text(100 << 20),
        "half of a PNG": _saved("PNG")[:2000],
        "a GIF": _saved("GIF"),
        "a TIFF": _saved("TIFF"),
        "an animated WebP": _animated(),
        "an SVG": b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>',
        "a pickle": b"cos\nsystem\n(S'true'\ntR.",
    }
    for name, data in bombs.items():
        text = base64.b64encode(data).decode()
        yield name, JOBS, post_json(JOBS, {"prompt": "a", "image": text})
        if name.startswith("a PNG"):
            yield name, IMG2IMG, post_json(IMG2IMG, {"prompt": "a", "init_images": [text]})
            form = b'--x\r\nContent-Disposition: form-data; name="%s"; filename="a.png"\r\n\r\n%s\r\n'
            body = form % (b"image", data) + form.replace(b'; filename="a.png"', b"") % (b"prompt", b"a") + b"--x--\r\n"
            yield name, EDITS, post(EDITS, body, kind="multipart/form-data; boundary=x")
    for name, text in (("half of base64", "iVBORw0KGgoAAAANSUhE"), ("no base64", "!" * 100), ("an empty text", "")):
        yield name, JOBS, post_json(JOBS, {"prompt": "a", "image": text})


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _png(width: int, height: int) -> bytes:
    """A whole PNG in black and white, small as a file."""
    row, packing = bytes(1 + (width + 7) // 8), zlib.compressobj(9)
    data = b"".join(packing.compress(row) for _ in range(height)) + packing.flush()
    shape = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", shape) + _chunk(b"IDAT", data) + _chunk(b"IEND", b"")


def _png_header(width: int, height: int) -> bytes:
    shape = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", shape) + _chunk(b"IDAT", zlib.compress(bytes(100)))


def _png_with_text(size: int) -> bytes:
    """A small picture whose compressed text is large."""
    information = PngImagePlugin.PngInfo()
    information.add_text("parameters", "a" * size, zip=True)
    return _saved("PNG", pnginfo=information)


def _saved(kind: str, **options: Any) -> bytes:
    memory = io.BytesIO()
    source_picture(0, 64, 64).save(memory, kind, **options)
    return memory.getvalue()


def _animated() -> bytes:
    frames = [Image.new("RGB", (64, 64), color) for color in ("red", "green")]
    memory = io.BytesIO()
    frames[0].save(memory, "WEBP", save_all=True, append_images=frames[1:])
    return memory.getvalue()
