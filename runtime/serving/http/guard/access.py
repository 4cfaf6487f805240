"""Who may ask: the token, the name that the server is called by, and web pages of other origins."""

import binascii
from base64 import b64decode
from collections.abc import Sequence
from hashlib import sha256
from hmac import compare_digest
from ipaddress import ip_address

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from latentrt.runtime.serving.http.errors import Refusal, answer_to
from latentrt.runtime.serving.http.settings import Settings

_OPEN = ("/", "/health/live", "/health/ready", "/favicon.ico")
_OPEN_FOLDER = "/page/"
_SAFE = ("GET", "HEAD", "OPTIONS")
_BEARER, _BASIC = "Bearer", 'Basic realm="latentrt", charset="UTF-8"'


class Access:
    """Refuses who may not ask. The page's files and the health are for everybody."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        """Takes what is guarded."""
        self._app, self._hosts = app, settings.hosts
        # Digests have one length, so that the time of a comparison tells nothing of the token's
        self._token = None if settings.token is None else sha256(settings.token.encode()).digest()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on, or refuses it."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":  # there are no websockets here
            await send({"type": "websocket.close", "code": 1008})
            return
        refusal = self._refusal(scope)
        if refusal is None:
            await self._app(scope, receive, send)
            return
        response: Response = answer_to(scope["path"], refusal)
        if refusal.status == 401:
            for challenge in _challenges(Headers(scope=scope)):
                response.headers.append("WWW-Authenticate", challenge)
        await response(scope, receive, send)

    def _refusal(self, scope: Scope) -> Refusal | None:
        headers = Headers(scope=scope)
        if self._hosts is not None and not self._is_called(_host(headers)):
            return Refusal(
                status=421,
                message="got a host that this server is not known by; use its own, or start it with --allow-host",
            )
        if scope["method"] not in _SAFE and _from_elsewhere(headers):
            return Refusal(
                status=403,
                message="got a request of another site's page, expected one of this server's; use the page at /",
            )
        path = scope["path"]
        is_open = path in _OPEN or path.startswith(_OPEN_FOLDER)
        if self._token is None or is_open or self._is_known(headers.getlist("authorization")):
            return None
        return Refusal(
            status=401,
            message="got no valid token; send Authorization: Bearer TOKEN, or the token as HTTP Basic's password",
        )

    def _is_called(self, host: str) -> bool:
        """Whether the server is called so. An address is its own: a page of another site comes under a name."""
        return host in (self._hosts or ()) or _is_address(host)

    def _is_known(self, given: Sequence[str]) -> bool:
        """Whether the token was sent, compared in constant time."""
        token = _token(given[0]) if len(given) == 1 else None
        same = compare_digest(sha256(token or b"").digest(), self._token or b"")
        return same and token is not None


def _token(authorization: str) -> bytes | None:
    """What a client sent as its token: Bearer's, or the password of Basic; the name before it may be any."""
    scheme, _, value = authorization.partition(" ")
    if scheme.lower() == "bearer":
        return value.strip().encode("latin-1")  # as headers are read, so these are the bytes that were sent
    if scheme.lower() == "basic":
        try:
            return b64decode(value.strip(), validate=True).partition(b":")[2]
        except (binascii.Error, ValueError):
            return None
    return None


def _challenges(headers: Headers) -> tuple[str, ...]:
    """The ways to send the token. A page's own scripts ask for it themselves: Basic would open the browser's window."""
    # Over plain HTTP browsers say sec-fetch-dest to this machine alone; the page at / says the other one everywhere
    script = headers.get("sec-fetch-dest") == "empty" or "x-requested-with" in headers
    return (_BEARER,) if script else (_BEARER, _BASIC)


def _host(headers: Headers) -> str:
    """The name that the client called the server by, without the port."""
    host = headers.get("host", "").lower()
    if host.startswith("["):
        return host.partition("]")[0] + "]"
    return host.partition(":")[0]


def _is_address(host: str) -> bool:
    try:
        ip_address(host.strip("[]"))
    except ValueError:
        return False
    return True


def _from_elsewhere(headers: Headers) -> bool:
    """Whether a browser says that another site's page asks: a form of its can send what nobody meant."""
    site = headers.get("sec-fetch-site")
    if site is not None:
        return site not in ("same-origin", "none")
    origin = headers.get("origin")
    return origin is not None and origin.partition("://")[2] != headers.get("host", "")


class SafeHeaders:
    """Adds headers by which browsers do no more with an answer than they must."""

    _ALL = (
        (b"x-content-type-options", b"nosniff"),
        (b"referrer-policy", b"no-referrer"),
        (b"cross-origin-resource-policy", b"same-origin"),
        (
            b"content-security-policy",
            b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
            b"connect-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'",
        ),
    )
    _UNSTORED = (b"cache-control", b"no-store")

    def __init__(self, app: ASGIApp) -> None:
        """Takes the application whose answers get them."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on."""

        async def added(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = [*message.get("headers", ()), *self._ALL]
                if not any(name.lower() == b"cache-control" for name, _ in headers):
                    headers.append(self._UNSTORED)
                message = {**message, "headers": headers}
            await send(message)

        await self._app(scope, receive, added if scope["type"] == "http" else send)
