"""Requests without a client: a test says when the body comes, and when the client goes."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

SOON = 20.0  # seconds that nothing here takes


class Call:
    """One request at an application."""

    def __init__(
        self,
        app: Any,
        method: str,
        path: str,
        *,
        body: Sequence[bytes] = (b"",),
        headers: Sequence[tuple[str, str]] = (),
    ) -> None:
        """Takes the parts of a body that have arrived; the last is the end of it."""
        self.reads = self.reads_before = 0  # all, and before there was an answer
        self.status = 0
        self.headers: dict[str, str] = {}
        self.chunks: list[bytes] = []
        self._came = asyncio.Event()
        self._gone = asyncio.Event()
        self._body = list(body)
        self._scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": method,
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "scheme": "http",
            "server": ("localhost", 80),
            "client": ("127.0.0.1", 1),
            "headers": [(name.lower().encode(), value.encode()) for name, value in (("host", "localhost"), *headers)],
        }
        self._app = app

    async def __call__(self) -> None:
        """Asks, and takes the answer."""
        await self._app(self._scope, self._receive, self._send)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[asyncio.Task[None]]:
        """The request while it is answered."""
        async with asyncio.timeout(SOON):
            task = asyncio.create_task(self())
            yield task
            await task

    def go(self) -> None:
        """The client goes."""
        self._gone.set()

    async def chunk(self, word: bytes) -> bytes:
        """The next part of the answer that has this in it; those before are taken, too."""
        while True:
            while self.chunks:
                chunk = self.chunks.pop(0)
                if word in chunk:
                    return chunk
            self._came.clear()
            await self._came.wait()

    @property
    def json(self) -> Any:
        """The answer."""
        return json.loads(b"".join(self.chunks))

    async def _receive(self) -> dict[str, Any]:
        if self._body:
            self.reads += 1
            self.reads_before += not self.status
            part = self._body.pop(0)
            return {"type": "http.request", "body": part, "more_body": bool(self._body)}
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = {name.decode(): value.decode() for name, value in message["headers"]}
        elif message.get("body"):
            self.chunks.append(message["body"])
        self._came.set()
