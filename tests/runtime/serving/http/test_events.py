"""Events of jobs, and clients that go."""

import asyncio
import json
from collections.abc import Callable, Coroutine
from typing import Any

from asgi_call import Call
from fastapi import APIRouter, Request
from stand_in_pipeline import SOON, StandInPipeline
from starlette.testclient import TestClient

from latentrt.runtime.serving.http.settings import Settings
from latentrt.runtime.serving.http.waiting import in_thread, result_of
from latentrt.runtime.serving.jobs.job import JobState
from latentrt.runtime.serving.jobs.order import Order


def run(coroutine: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(coroutine, SOON))


def data_of(chunk: bytes) -> Any:
    return json.loads(chunk.split(b"data: ", 1)[1])


def order() -> Order:
    return Order(prompt="a cat", keywords={"num_inference_steps": 2})


def test_events_tell_what_happens(client: TestClient, pipeline: StandInPipeline) -> None:
    """Queued, running, previews, done; then the stream ends."""
    pipeline.patient = True
    job = client.app.state.service.submit(order())  # type: ignore[attr-defined]

    async def follow() -> None:
        call = Call(client.app, "GET", f"/v1/jobs/{job.id}/events")
        async with call.running():
            drawing = await asyncio.to_thread(pipeline.drawing)
            running = data_of(await call.chunk(b"event: running"))
            assert (running["id"], running["step"]) == (job.id, 0)
            drawing.go()
            preview = data_of(await call.chunk(b"event: preview"))
            assert (preview["step"], preview["steps"]) == (1, 2)
            assert preview["images"][0].startswith("data:image/png;base64,")
            drawing.go()
            done = data_of(await call.chunk(b"event: done"))
            assert done["pictures"][0]["settings"].startswith("a cat")
        assert call.headers["content-type"].startswith("text/event-stream")

    run(follow())


def test_an_idle_stream_is_kept_alive(serve: Callable[..., TestClient], pipeline: StandInPipeline) -> None:
    """By comments, which clients pass over; who stops to listen ends nothing but the stream."""
    pipeline.patient = True
    client = serve(Settings(keep_alive=0.01))
    job = client.app.state.service.submit(order())  # type: ignore[attr-defined]

    async def follow() -> None:
        call = Call(client.app, "GET", f"/v1/jobs/{job.id}/events")
        async with call.running():
            await call.chunk(b": still here")
            call.go()
        assert job._listeners != []  # the service's own are left
        assert len(job._listeners) == 1

    run(follow())
    pipeline.drawing().finish()
    assert job.wait(SOON) is JobState.DONE


def test_who_reads_slowly_gets_the_latest(client: TestClient, pipeline: StandInPipeline) -> None:
    """No backlog is kept for anybody."""
    pipeline.patient = True
    service = client.app.state.service  # type: ignore[attr-defined]
    job = service.submit(Order(prompt="a cat", keywords={"num_inference_steps": 50}))
    drawing = pipeline.drawing()

    class Slow(Call):
        async def _send(self, message: dict[str, Any]) -> None:
            await super()._send(message)
            if b"event: running" in message.get("body", b"") and not drawing.future.done():
                drawing.finish()
                await asyncio.to_thread(job.wait, SOON)

    async def follow() -> None:
        call = Slow(client.app, "GET", f"/v1/jobs/{job.id}/events")
        async with call.running():
            pass
        names = [chunk.split(b"\n")[0] for chunk in call.chunks]
        assert names[-1] == b"event: done"
        assert len(names) <= 3

    run(follow())


def waiting_app(client: TestClient) -> Any:
    """The client's application with a route that waits for a job, as those of A1111 and OpenAI do."""
    router = APIRouter()

    @router.post("/wait/{job_id}")
    async def wait(request: Request, job_id: str) -> int:
        await request.body()
        result = await result_of(request, request.app.state.service.job(job_id))
        return await in_thread(request, len, result.images)

    client.app.include_router(router)  # type: ignore[attr-defined]
    return client.app


def test_a_client_that_goes_ends_its_job_at_the_next_step(client: TestClient, pipeline: StandInPipeline) -> None:
    """Nothing is drawn for nobody."""
    pipeline.patient = True
    app = waiting_app(client)
    job = app.state.service.submit(order())

    async def leave() -> None:
        call = Call(app, "POST", f"/wait/{job.id}")
        async with call.running():
            drawing = await asyncio.to_thread(pipeline.drawing)
            call.go()
        drawing.go()
        assert await asyncio.to_thread(job.wait, SOON) is JobState.CANCELLED
        assert drawing.future.step == 1

    run(leave())


def test_a_client_with_a_key_finds_its_job_again(client: TestClient, pipeline: StandInPipeline) -> None:
    """The connection was lost, not the wish for pictures."""
    pipeline.patient = True
    service = client.app.state.service  # type: ignore[attr-defined]
    body = json.dumps({"prompt": "a cat", "steps": 2}).encode()
    headers = [("Content-Type", "application/json"), ("Idempotency-Key", "abc")]
    lost, again = (Call(client.app, "POST", "/v1/images/generations", body=[body], headers=headers) for _ in range(2))

    async def leave() -> None:
        async with lost.running():
            drawing = await asyncio.to_thread(pipeline.drawing)
            lost.go()
        drawing.finish()
        async with again.running():
            pass

    run(leave())
    (job,) = service.jobs
    assert (again.status, job.state, len(again.json["data"])) == (200, JobState.DONE, 1)


def test_a_job_that_others_wait_for_goes_on(client: TestClient, pipeline: StandInPipeline) -> None:
    """A request that was repeated waits for the job of the first."""
    pipeline.patient = True
    app = waiting_app(client)
    job = app.state.service.submit(order())

    async def leave() -> None:
        first, second = (Call(app, "POST", f"/wait/{job.id}") for _ in range(2))
        async with second.running():
            async with first.running():
                drawing = await asyncio.to_thread(pipeline.drawing)
                first.go()
            drawing.finish()
        assert (second.status, second.json) == (200, 1)

    run(leave())


def test_why_there_are_no_pictures(serve: Callable[..., TestClient], pipeline: StandInPipeline) -> None:
    """Each end of a job has a status that clients do not repeat, but where it would help."""
    pipeline.patient = True
    client = serve(at_once=1)
    app = waiting_app(client)
    service = app.state.service
    blocker = service.submit(order())
    drawing = pipeline.drawing()
    cancelled = service.submit(order())
    cancelled.cancel()
    assert client.post(f"/wait/{cancelled.id}").status_code == 410
    expired = service.submit(order(), deadline=1.0)
    assert client.post(f"/wait/{expired.id}").json()["error"]["code"] == "expired"
    waiting = service.submit(order())

    async def drain() -> None:
        call = Call(app, "POST", f"/wait/{waiting.id}")
        async with call.running():
            draining = asyncio.create_task(asyncio.to_thread(service.drain, SOON))
            while waiting.state is JobState.QUEUED:
                await asyncio.sleep(0)
            drawing.finish()
            assert await draining
        assert (call.status, call.json["error"]["code"]) == (503, "draining")
        assert call.headers["retry-after"]

    run(drain())
    assert client.post(f"/wait/{blocker.id}").json() == 1
