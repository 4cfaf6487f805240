"""Bodies are bounded while they arrive: one, all that are held at a time, and how long one takes."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from latentrt.runtime.serving.http.errors import Refusal, RefusedError, answer_to, retry_after
from latentrt.runtime.serving.http.settings import Settings

_LINGER = 10.0  # seconds in which a client may end sending what is not wanted
_AGAIN = 1.0  # seconds after which bodies that are held now may be gone


class BodyLimit:
    """Refuses a body before more of it is kept than is allowed; what holds its bytes is over when the answer is."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        """Takes what is guarded."""
        self._app, self._settings = app, settings
        self._held = 0  # bytes of all bodies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        announced, body = _announced(scope), _Body(receive, self)
        sends = send if announced == 0 else body.sending(send)
        if announced is not None and announced > self._settings.body_bytes:
            await answer_to(scope["path"], self._too_large)(scope, body.receive, sends)
            return
        try:
            await self._app(scope, body.receive, sends)
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
        self._held += size  # first: all that a body holds is taken off again, also of one that is refused
        if held > self._settings.body_bytes:
            raise RefusedError(self._too_large)
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

    def sending(self, send: Send) -> Send:
        """Sends an answer that comes before the body has: its end only once the client has sent what it will.

        A connection that is closed while something of it is unread is reset, and the client never reads the answer.
        """

        async def sent(message: Message) -> None:
            last = message["type"] == "http.response.body" and not message.get("more_body", False)
            if last and not self._complete:
                await send({**message, "more_body": True})
                await self._discard()
                message = {"type": "http.response.body", "body": b""}
            await send(message)

        return sent

    async def _discard(self) -> None:
        """Reads on without keeping anything, for a short time."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_LINGER):
                while not self._complete:
                    message = await self._receive()
                    self._complete = message["type"] != "http.request" or not message.get("more_body", False)

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
    """What Content-Length says, and 0 where there is no body; None where its length is not known."""
    headers = dict(scope["headers"])
    length = headers.get(b"content-length", b"0" if b"transfer-encoding" not in headers else b"")
    return int(length) if length.isdigit() else None
