"""What OpenAI's clients are refused, and what they make of it."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event
from typing import Any

import httpx
import pytest
from openai import (
    APIError,
    APIStatusError,
    AuthenticationError,
    BadRequestError,
    InternalServerError,
    NotFoundError,
    RateLimitError,
)
from openai_answers import png_bytes

from latentrt.runtime.pipeline import Pipeline
from latentrt.runtime.serving.jobs.job import Job, JobState
from latentrt.runtime.serving.jobs.limits import Limits

LONG = 60.0  # seconds after which a test that waits has failed


def test_models_are_listed(served: Any) -> None:
    """By the names under which pictures are drawn."""
    client = served.client()
    (model,) = client.models.list()
    assert (model.id, model.object, model.owned_by) == ("tiny", "model", "latentrt")
    assert client.models.retrieve("tiny") == model


def test_unknown_models_are_not_found(served: Any) -> None:
    """Also those of OpenAI: nothing else is drawn in their place."""
    before = served.requests
    with pytest.raises(NotFoundError) as raised:
        served.client().images.generate(prompt="a cat", model="gpt-image-1")
    with pytest.raises(NotFoundError):
        served.client().models.retrieve("runwayml/stable-diffusion-v1-5")
    assert (raised.value.code, raised.value.param) == ("model_not_found", "model")
    assert served.requests == before + 2


def test_a_wrong_token_is_an_authentication_error(served: Any) -> None:
    """On every route."""
    client = served.client(api_key="another")
    with pytest.raises(AuthenticationError):
        client.images.generate(prompt="a cat")
    with pytest.raises(AuthenticationError):
        client.models.list()


def test_a_full_queue_is_a_rate_limit(serving: Callable[..., Any], tiny_bundle: Path) -> None:
    """With the seconds after which the client comes again by itself."""
    served = serving(tiny_bundle, Limits(queued=0))
    with pytest.raises(RateLimitError) as raised:
        served.client(max_retries=0).images.generate(prompt="a cat")
    assert int(raised.value.response.headers["retry-after"]) >= 1
    assert raised.value.code == "queue_full"


def test_more_than_is_drawn_at_once_is_a_bad_request(serving: Callable[..., Any], tiny_bundle: Path) -> None:
    """As it would be tomorrow."""
    served = serving(tiny_bundle, Limits(steps=10))
    with pytest.raises(BadRequestError) as raised:
        served.client().images.generate(prompt="a cat", extra_body={"steps": 11})
    assert raised.value.code == "too_costly"
    assert served.requests == 1
    told = httpx.get(served.url.replace("/v1", "/metrics"), headers={"Authorization": "Bearer a token of this test"})
    assert 'latentrt_orders_refused_total{reason="too_costly"} 1.0' in told.text


@pytest.mark.slow
def test_auto_is_a_size_that_the_server_draws(serving: Callable[..., Any], tiny_bundle: Path) -> None:
    """Not the bundle's first, where that is not among them."""
    served = serving(tiny_bundle, Limits(sizes=frozenset({(48, 32)})))
    client = served.client()
    assert client.images.generate(prompt="a cat", extra_body={"steps": 1}).size == "48x32"
    assert client.images.edit(image=png_bytes(), prompt="a cat", extra_body={"steps": 2}).size == "48x32"
    with pytest.raises(BadRequestError, match="48x32"):
        client.images.generate(prompt="a cat", size="32x32")


def test_a_server_that_ends_is_unavailable(serving: Callable[..., Any], tiny_bundle: Path) -> None:
    """Another one may take its place, so the client may come again."""
    served = serving(tiny_bundle)
    served.service.drain(0.0)
    with pytest.raises(APIStatusError) as raised:
        served.client(max_retries=0).images.generate(prompt="a cat")
    assert raised.value.status_code == 503
    assert raised.value.code == "draining"


def test_a_fault_of_the_server_is_not_asked_for_again(serving: Callable[..., Any], tiny_bundle: Path) -> None:
    """It would take as long, and fail again. What it was is not told."""

    def opens(path: Path) -> Pipeline:
        raise RuntimeError("a secret of the server")

    served = serving(tiny_bundle, None, opens)
    with pytest.raises(InternalServerError) as raised:
        served.client().images.generate(prompt="a cat")
    assert "secret" not in str(raised.value)
    assert served.requests == 1


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Event]]:
    """Jobs stop after their first step until they are let go."""
    events = {"begun": Event(), "cancelled": Event(), "go": Event()}
    stepped, cancel = Job.stepped, Job.cancel

    def held_step(job: Job, step: int, steps: int) -> None:
        stepped(job, step, steps)
        events["begun"].set()
        events["go"].wait(LONG)

    def noted_cancel(job: Job) -> None:
        cancel(job)
        events["cancelled"].set()

    monkeypatch.setattr(Job, "stepped", held_step)
    monkeypatch.setattr(Job, "cancel", noted_cancel)
    yield events
    events["go"].set()


def last_job(served: Any) -> Job:
    """The one that was sent last."""
    job: Job = served.service.jobs[-1]
    return job


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_cancels_its_job(served: Any, held: dict[str, Event], stream: bool) -> None:
    """At the next step."""

    async def go_away() -> None:
        async with served.async_client() as client:
            more = {"stream": True} if stream else {}
            asked = asyncio.ensure_future(client.images.generate(prompt="a cat", extra_body={"steps": 9}, **more))
            assert await asyncio.to_thread(held["begun"].wait, LONG)
            if stream:
                await (await asked).close()
            asked.cancel()
            assert await asyncio.to_thread(held["cancelled"].wait, LONG)

    asyncio.run(go_away())
    held["go"].set()
    assert last_job(served).wait(LONG) is JobState.CANCELLED
    assert last_job(served).step < 9


def test_a_job_that_is_cancelled_elsewhere_ends_a_stream_with_an_error(served: Any, held: dict[str, Event]) -> None:
    """After events were told, it is the client's plain error, which is not repeated."""
    before = served.requests
    stream = served.client().images.generate(prompt="a cat", stream=True, partial_images=3, extra_body={"steps": 9})
    assert held["begun"].wait(LONG)
    last_job(served).cancel()
    held["go"].set()
    with pytest.raises(APIError, match="cancelled") as raised:
        list(stream)
    assert raised.value.code == "cancelled"
    assert served.requests == before + 1


def test_a_key_leads_to_one_job(served: Any, tiny_pipe: Pipeline) -> None:
    """The client sends one where its caller does; forms are the same whatever their boundary."""
    client = served.client()
    headers = {"Idempotency-Key": "one of this test"}
    image = png_bytes()
    before = len(served.service.jobs)
    seeds = []
    for _ in range(2):
        drawn = client.images.generate(prompt="a cat", extra_headers=headers, extra_body={"steps": 1})
        edited = client.images.edit(image=image, prompt="a cat", extra_headers=headers, extra_body={"steps": 2})
        seeds.append((drawn.data[0].seed, edited.data[0].seed))
    assert seeds[0] == seeds[1]
    assert len(served.service.jobs) == before + 2
    with pytest.raises(BadRequestError) as raised:
        client.images.generate(prompt="a dog", extra_headers=headers)
    assert raised.value.code == "key_reused"
