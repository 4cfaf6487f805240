"""Clients of the server: each asks for a picture, and as soon as it has it for the next."""

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
_TOO_MANY = 429


class NoPictureError(Exception):
    """A job ended without a picture."""


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
                delivered.append(await picture_of(client, waiting.pop()))

    begin = perf_counter()
    await asyncio.gather(*(work() for _ in range(clients)))
    return perf_counter() - begin, delivered


async def picture_of(client: httpx.AsyncClient, asked: Asked) -> Delivered:
    """One picture: of text by OpenAI's route, which answers with it; from a picture as a job whose events are followed.

    A full queue is asked again after the time that it names.
    """
    fetch = picture_by_generation if asked.source is None else picture_by_job
    refusals, begin = 0, perf_counter()
    while True:
        try:
            png = await fetch(client, asked)
            return Delivered(asked=asked, seconds=perf_counter() - begin, png=png, refusals=refusals)
        except httpx.HTTPStatusError as error:
            answer = error.response
            if answer.status_code != _TOO_MANY or refusals == _MOST_REFUSALS:
                reason = f"{answer.status_code}: {answer.text[:200]}"
                return Delivered(asked=asked, seconds=perf_counter() - begin, reason=reason, refusals=refusals)
            refusals += 1
            await asyncio.sleep(float(answer.headers["retry-after"]))
        except (httpx.HTTPError, NoPictureError) as error:
            reason = repr(error)
            return Delivered(asked=asked, seconds=perf_counter() - begin, reason=reason, refusals=refusals)


async def picture_by_job(client: httpx.AsyncClient, asked: Asked) -> bytes:
    """One picture through ``/v1/jobs``: its PNG, once its events have said that it is done.

    Raises:
        httpx.HTTPError: a request that was refused, or had no answer.
        NoPictureError: the job ended otherwise.
    """
    answer = await client.post("/v1/jobs", json=asked.body())
    answer.raise_for_status()
    place = f"/v1/jobs/{answer.json()['id']}"
    state = await _end_of(client, place)
    if state != "done":
        raise NoPictureError(f"the job's last event was {state or 'none'}")
    picture = await client.get(f"{place}/pictures/0")
    picture.raise_for_status()
    return picture.content


async def _end_of(client: httpx.AsyncClient, place: str) -> str:
    """The name of a job's last event."""
    event = ""
    async with client.stream("GET", f"{place}/events") as stream:
        if stream.is_error:
            await stream.aread()
            stream.raise_for_status()
        async for line in stream.aiter_lines():
            if line.startswith("event:"):
                event = line.removeprefix("event:").strip()
            if event in _ENDED and not line:
                break
    return event


def generation_body(asked: Asked) -> dict[str, Any]:
    """The JSON of ``POST /v1/images/generations`` for a picture of text."""
    keywords = asked.keywords()
    size = f"{keywords.pop('width')}x{keywords.pop('height')}"
    return {"prompt": asked.prompt, "size": size, "response_format": "b64_json", **keywords}


async def picture_by_generation(client: httpx.AsyncClient, asked: Asked) -> bytes:
    """One picture of text through ``/v1/images/generations``, a single answer: its PNG.

    Raises:
        httpx.HTTPError: a request that was refused, or had no answer.
    """
    answer = await client.post("/v1/images/generations", json=generation_body(asked))
    answer.raise_for_status()
    return base64.b64decode(answer.json()["data"][0]["b64_json"])
