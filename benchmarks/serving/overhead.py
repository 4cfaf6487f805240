"""What HTTP adds to a picture: a call in this process, and the same picture from an idle server, in turn."""

import asyncio
from collections.abc import Callable
from functools import partial
from pathlib import Path
from time import perf_counter, sleep

import httpx

from latentrt.benchmarks.serving.asked import Asked
from latentrt.benchmarks.serving.clients import picture_by_generation, picture_by_job
from latentrt.benchmarks.serving.schema import Overhead

CALL, JOB, OPENAI = "pipe(…)", "/v1/jobs, its events and its picture", "/v1/images/generations"
_QUIET = 0.25  # seconds before each picture: threads of the other process spin on
_STEPS = 8


def overhead(bundle: Path, url: str, rounds: int, prompt: str) -> Overhead:
    """Seconds of one picture by each way, in so many rounds after an uncounted one.

    Raises:
        httpx.HTTPError: a picture did not come.
        NoPictureError: likewise.
    """
    import latentrt

    samples: dict[str, list[float]] = {CALL: [], JOB: [], OPENAI: []}
    with latentrt.open(bundle) as pipe, asyncio.Runner() as runner:
        client = httpx.AsyncClient(base_url=url, timeout=60)
        ways: dict[str, Callable[[Asked], object]] = {
            CALL: lambda asked: asked.draw(pipe),
            JOB: lambda asked: runner.run(picture_by_job(client, asked)),
            OPENAI: lambda asked: runner.run(picture_by_generation(client, asked)),
        }
        for number in range(-1, rounds):
            asked = _asked(prompt, number + 1)
            for name, way in list(ways.items())[:: 1 if number % 2 else -1]:
                sleep(_QUIET)
                seconds = _seconds(partial(way, asked))
                if number >= 0:
                    samples[name].append(seconds)
        runner.run(client.aclose())
    return Overhead(steps=_STEPS, seconds={name: tuple(taken) for name, taken in samples.items()})


def _asked(prompt: str, seed: int) -> Asked:
    return Asked(
        prompt=prompt,
        width=64,
        height=64,
        num_inference_steps=_STEPS,
        guidance_scale=7.5,
        sampler="dpmpp_2m_k",
        seed=seed,
    )


def _seconds(work: Callable[[], object]) -> float:
    begin = perf_counter()
    work()
    return perf_counter() - begin
