"""Whether a server is as it was before: no job left, and no more threads, files and memory than before."""

import time
from dataclasses import dataclass

import httpx

from latentrt.benchmarks.serving.server import Server, Vitals

_SECONDS = 60.0
_LOOK_SECONDS = 0.1
_FINAL = ("done", "failed", "cancelled", "expired")
_MORE_THREADS = 8  # pools grow when they are first busy; a leak would be of every client
_MORE_FILES = 4  # a connection or two of who asks
_MORE_BYTES = 96 << 20  # what allocators keep


@dataclass(frozen=True, kw_only=True)
class Settled:
    """A server after a while: what is not as it should be, a line each."""

    seconds: float
    vitals: Vitals
    faults: tuple[str, ...]


def settled(server: Server, before: Vitals | None = None) -> Settled:
    """Waits until nothing is drawn, and threads and files are back; not longer than a minute.

    Args:
        server: it.
        before: what it held before; None: that is not asked.
    """
    begin = time.monotonic()
    while True:
        faults, vitals = _faults(server, before)
        seconds = time.monotonic() - begin
        if not faults or seconds > _SECONDS:
            return Settled(seconds=seconds, vitals=vitals, faults=faults)
        time.sleep(_LOOK_SECONDS)


def _faults(server: Server, before: Vitals | None) -> tuple[tuple[str, ...], Vitals]:
    found = []
    with httpx.Client(base_url=server.url, timeout=10) as client:
        jobs = client.get("/v1/jobs").json()["jobs"]
        found += [f"job {job['id']} is still {job['state']}" for job in jobs if job["state"] not in _FINAL]
        ready = client.get("/health/ready").status_code
        found += [] if ready == 200 else [f"/health/ready answers {ready}"]
    vitals = server.vitals()
    if before is not None:
        if vitals.threads > before.threads + _MORE_THREADS:
            found.append(f"{vitals.threads} threads, {before.threads} before")
        if vitals.files > before.files + _MORE_FILES:
            found.append(f"{vitals.files} open files, {before.files} before")
        if vitals.bytes > before.bytes + _MORE_BYTES:
            found.append(f"{vitals.bytes >> 20} MB of memory, {before.bytes >> 20} MB before")
    return tuple(found), vitals
