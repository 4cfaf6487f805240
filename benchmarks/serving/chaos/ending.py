"""A server that is asked to end under load: what is drawn is finished, what waits is told so, and the process ends."""

import asyncio
import base64
import signal
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import httpx

from latentrt.benchmarks.serving.asked import Asked
from latentrt.benchmarks.serving.chaos.bodies import GENERATIONS
from latentrt.benchmarks.serving.clients import generation_body
from latentrt.benchmarks.serving.compared import CLOSE, distance
from latentrt.benchmarks.serving.server import Server

_END_SECONDS = 60.0
_OK, _UNAVAILABLE = 200, 503


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a server ended: what became of the requests that it had, and what was not as it should be."""

    seconds: float
    answers: dict[str, int]
    faults: tuple[str, ...]


def end_under_load(server: Server, pictures: Sequence[Asked], alone: Path) -> Ended:
    """Asks for all pictures at once and sends SIGTERM as soon as the first is there.

    Args:
        server: of which some are drawn and the others wait.
        pictures: of text alone.
        alone: the same, drawn alone.
    """
    return asyncio.run(_end_under_load(server, pictures, alone))


async def _end_under_load(server: Server, pictures: Sequence[Asked], alone: Path) -> Ended:
    answers, faults, signalled = Counter[str](), list[str](), asyncio.Event()
    limits = httpx.Limits(max_connections=len(pictures))
    async with httpx.AsyncClient(base_url=server.url, timeout=_END_SECONDS, limits=limits) as client:

        async def ask(asked: Asked) -> None:
            try:
                answer = await client.post(GENERATIONS, json=generation_body(asked))
            except httpx.TransportError as error:
                answers[repr(error)] += 1
                faults.append(f"a request that was sent before SIGTERM had no answer: {error!r}")
                return
            answers[str(answer.status_code)] += 1
            if answer.status_code == _OK:
                png = base64.b64decode(answer.json()["data"][0]["b64_json"])
                psnr = distance(png, alone / f"{asked.digest}.png")
                if psnr is not None and psnr < CLOSE:
                    faults.append(f"picture {asked.digest} is {psnr:.1f} dB from the one drawn alone")
                signalled.set()
            elif answer.status_code != _UNAVAILABLE:
                faults.append(f"a request was answered {answer.status_code}: {answer.text[:200]}")

        asking = [asyncio.create_task(ask(asked)) for asked in pictures]
        await asyncio.wait_for(signalled.wait(), _END_SECONDS)
        begin = perf_counter()
        server.process.send_signal(signal.SIGTERM)
        await asyncio.gather(*asking)
        status = await asyncio.to_thread(server.process.wait, _END_SECONDS)
        seconds = perf_counter() - begin
    if status != 0:
        faults.append(f"the exit status is {status}: {server.last_words()}")
    if not answers[str(_UNAVAILABLE)]:
        faults.append("nothing that waited was answered 503")
    return Ended(seconds=seconds, answers=dict(answers), faults=tuple(faults))
