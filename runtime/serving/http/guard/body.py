"""Bodies are bounded while they arrive: one, all that are held at a time, and how long one takes."""

import asyncio
from collections.abc import Awaitable, Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from latentrt.runtime.serving.http.errors import Refusal, RefusedError, answer_to, retry_after
from latentrt.runtime.serving.http.settings import Settings

_AGAIN = 1.0  # seconds after which bodies that are held now may be gone


class BodyLimit:
    """Refuses a body before more of it is read than is allowed; what holds its bytes is over when the answer is."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        """Takes what is guarded."""
        self._app, self._settings = app, settings
        self._held = 0  # bytes of all bodies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        announced = _announced(scope)
        if announced is not None and announced > self._settings.body_bytes:
            await answer_to(scope["path"], self._too_large)(scope, receive, send)
            return
        body = _Body(receive, self)
        try:
            await self._app(scope, body.receive, send)
        finally:
            self._held -= body.held

    @property
    def _too_large(self) -> Refusal:
        most = self._settings.body_bytes
        return Refusal(
            status=413,
            message=f"got a body of more than {most} bytes, expected {most} at most; send smaller pictures",
            headers={"Connection": "close"},  # the rest of it is not read
        )

    def hold(self, size: int, held: int) -> None:
        """Counts bytes that have arrived for a body that holds some.

        Raises:
            RefusedError: it is too large, or all are.
        """
        if held > self._settings.body_bytes:
            raise RefusedError(self._too_large)
        self._held += size
        if self._held > self._settings.bodies_bytes:
            message = "got a body while others fill what is kept for them; send it again"
            raise RefusedError(
                Refusal(status=429, message=message, headers={**retry_after(_AGAIN), "Connection": "close"})
            )

    @property
    def seconds(self) -> float:
        """Within which a body must have arrived."""
        return self._settings.body_seconds


class _Body:
    """One body as it arrives."""

    def __init__(self, receive: Receive, limit: BodyLimit) -> None:
        self._receive, self._limit = receive, limit
        self._until: float | None = None  # by the loop's clock
        self._complete = False
        self.held = 0

    async def receive(self) -> Message:
        """The next message; once the body is there, those that follow may take any time."""
        if self._complete:
            return await self._receive()
        message = await self._in_time(self._receive)
        if message["type"] != "http.request":
            return message
        size = len(message.get("body", b""))
        self.held += size
        self._complete = not message.get("more_body", False)
        self._limit.hold(size, self.held)
        return message

    async def _in_time(self, receive: Callable[[], Awaitable[Message]]) -> Message:
        now = asyncio.get_running_loop().time()
        self._until = self._until or now + self._limit.seconds
        try:
            async with asyncio.timeout_at(self._until):
                return await receive()
        except TimeoutError:
            message = f"got a body that took longer than {self._limit.seconds:g} seconds; send it faster, or less"
            raise RefusedError(Refusal(status=408, message=message, headers={"Connection": "close"})) from None


def _announced(scope: Scope) -> int | None:
    """What Content-Length says; None where it says nothing."""
    for name, value in scope["headers"]:
        if name == b"content-length":
            return int(value) if value.isdigit() else None
    return None
