"""Clients of the server's own API: each asks for a picture, follows its events, fetches it, and asks for the next."""

import asyncio
import base64
from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import httpx

from latentrt.benchmarks.serving.asked import Asked

_ENDED = ("done", "failed", "cancelled", "expired")
_SECONDS = 300.0  # that one answer may take
_MOST_REFUSALS = 200


@dataclass(frozen=True, kw_only=True)
class Delivered:
    """What came of a request: the picture's PNG, or why there is none. ``refusals`` counts answers 429 before it."""

    asked: Asked
    seconds: float
    png: bytes | None = None
    reason: str | None = None
    refusals: int = 0


def ask_by_clients(url: str, pictures: Sequence[Asked], clients: int) -> tuple[float, list[Delivered]]:
    """So many clients ask for all pictures, each for one at a time; seconds until the last came, and all that came."""
    return asyncio.run(_ask_by_clients(url, pictures, clients))


async def _ask_by_clients(url: str, pictures: Sequence[Asked], clients: int) -> tuple[float, list[Delivered]]:
    waiting, delivered = list(reversed(pictures)), list[Delivered]()

    async def work() -> None:
        async with httpx.AsyncClient(base_url=url, timeout=_SECONDS) as client:
            while waiting:
                delivered.append(await picture_by_job(client, waiting.pop()))

    begin = perf_counter()
    await asyncio.gather(*(work() for _ in range(clients)))
    return perf_counter() - begin, delivered


async def picture_by_job(client: httpx.AsyncClient, asked: Asked) -> Delivered:
    """One picture through ``/v1/jobs``. A full queue is asked again after the time that it names."""
    body, refusals = asked.body(), 0
    begin = perf_counter()

    def failed(reason: str) -> Delivered:
        return Delivered(asked=asked, seconds=perf_counter() - begin, reason=reason, refusals=refusals)

    try:
        answer = await client.post("/v1/jobs", json=body)
        while answer.status_code == 429 and refusals < _MOST_REFUSALS:
            refusals += 1
            await asyncio.sleep(float(answer.headers["retry-after"]))
            answer = await client.post("/v1/jobs", json=body)
        if answer.status_code != 202:
            return failed(f"{answer.status_code}: {answer.text[:200]}")
        place = f"/v1/jobs/{answer.json()['id']}"
        state = await _end_of(client, place)
        if state != "done":
            return failed(state)
        picture = await client.get(f"{place}/pictures/0")
        if picture.status_code != 200:
            return failed(f"picture {picture.status_code}: {picture.text[:200]}")
        seconds = perf_counter() - begin
        await client.delete(place)
    except httpx.HTTPError as error:
        return failed(repr(error))
    return Delivered(asked=asked, seconds=seconds, png=picture.content, refusals=refusals)


async def _end_of(client: httpx.AsyncClient, place: str) -> str:
    """The name of a job's last event."""
    event = ""
    async with client.stream("GET", f"{place}/events") as stream:
        if stream.status_code != 200:
            return f"events {stream.status_code}"
        async for line in stream.aiter_lines():
            if line.startswith("event:"):
                event = line.removeprefix("event:").strip()
            if event in _ENDED and not line:
                return event
    return f"events ended at {event or 'none'}"


def generation_body(asked: Asked) -> dict[str, Any]:
    """The JSON of ``POST /v1/images/generations`` for a picture of text."""
    keywords = asked.keywords()
    size = f"{keywords.pop('width')}x{keywords.pop('height')}"
    return {"prompt": asked.prompt, "size": size, "response_format": "b64_json", **keywords}


async def picture_by_generation(client: httpx.AsyncClient, asked: Asked) -> bytes:
    """One picture of text through ``/v1/images/generations``, a single answer: its PNG.

    Raises:
        httpx.HTTPError: there is none.
    """
    answer = await client.post("/v1/images/generations", json=generation_body(asked))
    answer.raise_for_status()
    return base64.b64decode(answer.json()["data"][0]["b64_json"])
