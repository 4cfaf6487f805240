"""What the HTTP side of a server allows."""

from dataclasses import dataclass, field

from latentrt.engines.errors import RequestError

_MIB = 1 << 20


@dataclass(frozen=True, kw_only=True)
class PictureLimits:
    """What a picture in a request may be at most: bytes of its file, and pixels."""

    bytes: int = 24 * _MIB
    pixels: int = 4096 * 4096


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How requests are received.

    Attributes:
        token: what clients must send, as a bearer token or as the password of HTTP Basic; None: nobody is asked.
        hosts: the names in a request's Host header that are answered, without ports, beside addresses; None: all. A
            server that asks for no token names itself here, so that a web page cannot reach it under a name of its own.
        body_bytes: of one request.
        bodies_bytes: of all requests that are being answered.
        body_seconds: within which a body must have arrived.
        pictures: limits of those in a request.
        keep_alive: seconds after which a stream of events that has nothing to tell sends a comment.
    """

    token: str | None = field(default=None, repr=False)
    hosts: frozenset[str] | None = None
    body_bytes: int = 64 * _MIB
    bodies_bytes: int = 256 * _MIB
    body_seconds: float = 60.0
    pictures: PictureLimits = PictureLimits()
    keep_alive: float = 15.0

    def __post_init__(self) -> None:
        """Refuses a token that everybody has.

        Raises:
            RequestError: it is empty.
        """
        if self.token is not None and not self.token.strip():
            raise RequestError("got an empty token, expected one that only clients know; leave it out, or give one")
