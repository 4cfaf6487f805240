"""HTTP byte by byte, for what no client library sends."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from typing import Any

_LONGEST_ANSWER = 1 << 24
_CLOSE = "Connection: close"


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A status with its text; no status where the connection was closed without one."""

    status: int | None
    text: str = ""


def head(method: str, path: str, *headers: str) -> bytes:
    """A request's first lines."""
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", *headers, "", ""]).encode("latin-1")


def post(path: str, body: bytes, *headers: str, kind: str = "application/json") -> bytes:
    """A whole request, after which the connection ends."""
    return head("POST", path, f"Content-Type: {kind}", f"Content-Length: {len(body)}", _CLOSE, *headers) + body


def post_json(path: str, body: Any) -> bytes:
    """A whole request with an object."""
    return post(path, json.dumps(body).encode())


@contextlib.asynccontextmanager
async def connection(port: int) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection to a server on this machine, aborted at the end: whatever was not sent is not."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def answer_to(port: int, request: Iterable[bytes], seconds: float) -> Answer:
    """Sends a request piece by piece until the server answers, or closes, and gives its answer.

    Raises:
        TimeoutError: neither in so many seconds.
    """
    async with asyncio.timeout(seconds), connection(port) as (reader, writer):
        sending = asyncio.create_task(_send(writer, request))
        try:
            return await _read(reader)
        finally:
            sending.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await sending


async def _send(writer: asyncio.StreamWriter, request: Iterable[bytes]) -> None:
    with contextlib.suppress(OSError):  # the server answered before it had read all
        for piece in request:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0)


async def _read(reader: asyncio.StreamReader) -> Answer:
    try:
        line = await reader.readline()
        if not line.startswith(b"HTTP/1.1 "):
            return Answer(status=None)
        status, length = int(line.split()[1]), 0
        while (line := await reader.readline()).strip():
            name, _, value = line.decode("latin-1").partition(":")
            if name.lower() == "content-length":
                length = int(value)
        text = await reader.readexactly(min(length, _LONGEST_ANSWER))
    except (OSError, asyncio.IncompleteReadError):
        return Answer(status=None)
    return Answer(status=status, text=text.decode("utf-8", "replace"))
