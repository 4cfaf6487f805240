"""Clients that go away at some moment of a request. What was taken on all the same must be drawn, or cancelled."""

import asyncio
import json
from dataclasses import dataclass
from enum import StrEnum
from random import Random

from latentrt.benchmarks.serving.asked import Asked
from latentrt.benchmarks.serving.chaos.bodies import GENERATIONS, JOBS
from latentrt.benchmarks.serving.chaos.raw import connection, head, post_json
from latentrt.benchmarks.serving.clients import generation_body

_ANSWER_SECONDS = 120.0


class Moment(StrEnum):
    """When a client goes."""

    CONNECTED = "before a byte"
    IN_HEADERS = "within the headers"
    IN_BODY = "within the body"
    ASKED = "right after the body of a job"
    WAITING = "while it waits for its picture"
    EVENTS = "while it follows its job"
    PICTURE = "while it fetches its picture"


@dataclass(frozen=True, kw_only=True)
class Left:
    """A client that went. ``job`` is the id of the job that it was promised; None: none."""

    moment: Moment
    asked: Asked
    job: str | None = None


async def leave(port: int, asked: Asked, moment: Moment, random: Random) -> Left:
    """Asks for a picture and goes at a moment.

    Raises:
        TimeoutError: the server does not answer what it should before that.
    """
    whole = post_json(JOBS, asked.body())
    job: str | None = None
    async with asyncio.timeout(_ANSWER_SECONDS), connection(port) as (reader, writer):
        match moment:
            case Moment.CONNECTED:
                await asyncio.sleep(random.uniform(0, 0.05))
            case Moment.IN_HEADERS | Moment.IN_BODY:
                headers = whole.index(b"\r\n\r\n") + 4
                first, last = (1, headers) if moment is Moment.IN_HEADERS else (headers, len(whole))
                writer.write(whole[: random.randrange(first, last)])
                await writer.drain()
                await asyncio.sleep(random.uniform(0, 0.05))
            case Moment.ASKED:
                writer.write(whole)
                await writer.drain()
                await asyncio.sleep(random.uniform(0, 0.01))
            case Moment.WAITING:
                writer.write(post_json(GENERATIONS, generation_body(asked)))
                await writer.drain()
                await asyncio.sleep(random.uniform(0, 1.5))
            case Moment.EVENTS | Moment.PICTURE:
                writer.write(whole)
                job = await _job_id(reader)
    if job is not None:
        await _follow_and_leave(port, job, moment, random)
    return Left(moment=moment, asked=asked, job=job)


async def _job_id(reader: asyncio.StreamReader) -> str | None:
    """Of an answer 202; None of another."""
    text = (await reader.read(-1)).decode()
    taken = text.startswith("HTTP/1.1 202")
    return str(json.loads(text.partition("\r\n\r\n")[2])["id"]) if taken else None


async def _follow_and_leave(port: int, job: str, moment: Moment, random: Random) -> None:
    """Reads some events, or all and the first bytes of the picture."""
    async with asyncio.timeout(_ANSWER_SECONDS), connection(port) as (reader, writer):
        writer.write(head("GET", f"{JOBS}/{job}/events"))
        await reader.readuntil(b"\r\n\r\n")
        if moment is Moment.EVENTS:
            for _ in range(random.randrange(1, 6)):
                if not await reader.readline():
                    return
            return
        while b"event: done" not in (line := await reader.readline()):
            if not line:
                return
    async with asyncio.timeout(_ANSWER_SECONDS), connection(port) as (reader, writer):
        writer.write(head("GET", f"{JOBS}/{job}/pictures/0"))
        await reader.read(random.randrange(1, 300))
