"""How many replicas a Ray Serve application has, what each may use, and how requests reach them."""

from dataclasses import dataclass
from enum import StrEnum


class Routing(StrEnum):
    """How a request finds a replica.

    ``LOAD``: of two replicas the one with less to do. ``SESSIONS``: all requests with one ``X-Session-Id`` go to one
    replica, others to any; it is new in Ray 2.60, and replicas are loaded less evenly.
    """

    LOAD = "load"
    SESSIONS = "sessions"


@dataclass(frozen=True, kw_only=True)
class Replicas:
    """The replicas of an application.

    Attributes:
        fewest: as many there are always; 0 lets the last one go when nobody asks, and the next request waits until
            one has opened and warmed its models.
        most: as many there may be.
        cpus: of each; model calls have so many threads.
        gpus: of each, such as 1 or 0.5; Ray keeps count of them and bounds no memory.
        ongoing: requests that a replica is given at once; None: as many as fill its models' engines twice.
        queued: requests that wait for a replica; more are answered with 429.
        drain: seconds in which a replica that is stopped may finish what it draws.
        routing: how requests reach them.
    """

    fewest: int = 1
    most: int = 1
    cpus: int = 1
    gpus: float = 0.0
    ongoing: int | None = None
    queued: int = 64
    drain: float = 120.0
    routing: Routing = Routing.LOAD

    @property
    def several(self) -> bool:
        """Whether a request and the next may meet different replicas."""
        return self.most > 1
