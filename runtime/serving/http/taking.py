"""Taking orders on: the headers that all APIs share, and one job for requests that were repeated."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from hashlib import sha256
from math import isfinite
from typing import Annotated
from weakref import WeakValueDictionary

from fastapi import Header
from starlette.requests import Request

from latentrt.engines.errors import RequestError, shown
from latentrt.runtime.serving.http.errors import Refusal, RefusedError
from latentrt.runtime.serving.http.waiting import in_thread, outlives_its_client
from latentrt.runtime.serving.jobs.job import Job, JobState
from latentrt.runtime.serving.jobs.order import Order
from latentrt.runtime.serving.jobs.service import Service

_LONGEST_KEY = 255
_REMEMBERED = 4096  # keys
_LONGEST_WAIT = 86_400.0  # seconds

IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        description="Sent again with the same key, a request finds the job that it led to, which goes on without it.",
        max_length=_LONGEST_KEY,
    ),
]
"""For routes that take orders on: what the OpenAPI document says of the header."""
DeadlineSeconds = Annotated[
    float | None,
    Header(
        alias="X-Deadline-Seconds",
        description="How long the job may wait; one that waits longer is not drawn.",
        gt=0,
        le=_LONGEST_WAIT,
        allow_inf_nan=False,
    ),
]
"""The same of the deadline."""


@dataclass(frozen=True, kw_only=True)
class _Known:
    digest: bytes
    job_id: str


class Keys:
    """The jobs by the idempotency keys of the requests that led to them, the last few thousand; used by the loop."""

    def __init__(self) -> None:
        """Knows none."""
        self._known: OrderedDict[tuple[str, str], _Known] = OrderedDict()
        self._turns: WeakValueDictionary[tuple[str, str], asyncio.Lock] = WeakValueDictionary()

    def turn(self, path: str, key: str) -> asyncio.Lock:
        """What requests with one key hold one after the other: the second one finds the job of the first."""
        return self._turns.setdefault((path, key), asyncio.Lock())

    def job(self, service: Service, path: str, key: str, digest: bytes) -> Job | None:
        """The job that a key led to; None where there is none, or none that has pictures or will have some.

        Raises:
            RefusedError: the key was another request's.
        """
        known = self._known.get((path, key))
        job = None if known is None else service.job(known.job_id)
        if known is None or job is None or (job.state is not JobState.DONE and (job.state.final or job.cancelled)):
            return None
        if known.digest != digest:
            message = "got an Idempotency-Key of another request; give each request one of its own"
            raise RefusedError(Refusal(status=422, code="key_reused", message=message))
        return job

    def remember(self, path: str, key: str, digest: bytes, job: Job) -> None:
        """Notes the job that a key led to."""
        self._known[path, key] = _Known(digest=digest, job_id=job.id)
        self._known.move_to_end((path, key))
        while len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)


async def job_of(request: Request, read_order: Callable[[], Awaitable[Order]], body: bytes = b"") -> Job:
    """The job of a request that asks for pictures: a new one, or of a repeated request the one that there is.

    Args:
        request: whose headers Idempotency-Key and X-Deadline-Seconds count.
        read_order: makes the order, decoding its pictures.
        body: what two requests with one key must agree in.

    Raises:
        RefusedError: the key was another request's.
        RequestError: a header that cannot be, or an order that is not taken on, as ``Service.submit`` says.
    """
    service: Service = request.app.state.service
    keys: Keys = request.app.state.keys
    deadline, key = _deadline(request), _key(request)
    if key is None:
        return await in_thread(request, service.submit, await read_order(), deadline=deadline)
    path, digest = request.url.path, sha256(body).digest()
    async with keys.turn(path, key):
        job = keys.job(service, path, key, digest)
        if job is None:
            job = await in_thread(request, service.submit, await read_order(), deadline=deadline)
            keys.remember(path, key, digest, job)
            outlives_its_client(job)
        return job


def _key(request: Request) -> str | None:
    key = request.headers.get("idempotency-key")
    if key is not None and len(key) > _LONGEST_KEY:
        raise RequestError(f"got an Idempotency-Key of {len(key)} characters, expected {_LONGEST_KEY} at most; cut it")
    return key or None


def _deadline(request: Request) -> float | None:
    """Seconds since the epoch."""
    text = request.headers.get("x-deadline-seconds")
    if text is None:
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not (isfinite(seconds) and 0 < seconds <= _LONGEST_WAIT):
        raise RequestError(
            f"got X-Deadline-Seconds {shown(text)}, expected a number above 0, at most {_LONGEST_WAIT:g}; correct it"
        )
    return time.time() + seconds
