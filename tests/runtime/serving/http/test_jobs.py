"""Jobs over HTTP, from the order to its pictures, and what keeps them from being drawn."""

import time
from base64 import b64encode
from collections.abc import Callable
from io import BytesIO
from typing import Any

import pytest
from PIL import Image
from stand_in_pipeline import SOON, StandInPipeline
from starlette.testclient import TestClient

from latentrt.engines.errors import NotFiniteError, RequestError
from latentrt.runtime.pictures.picture_file import read_parameters
from latentrt.runtime.serving.jobs.job import Job, JobState
from latentrt.runtime.serving.jobs.service import Service

ORDER = {"prompt": "a cat", "num_inference_steps": 2, "seed": 7}


def service_of(client: TestClient) -> Service:
    return client.app.state.service  # type: ignore[attr-defined,no-any-return]


def sent(client: TestClient, headers: dict[str, str] | None = None, **keywords: Any) -> Job:
    """A job that was taken on."""
    answer = client.post("/v1/jobs", json={**ORDER, **keywords}, headers=headers or {})
    assert answer.status_code == 202, answer.text
    job = service_of(client).job(answer.json()["id"])
    assert job is not None
    return job


def test_an_order_becomes_pictures(client: TestClient, pipeline: StandInPipeline, tmp_path: Any) -> None:
    """Taken on, drawn, told of and fetched."""
    answer = client.post("/v1/jobs", json={**ORDER, "num_images_per_prompt": 2, "negative_prompt": None})
    assert answer.status_code == 202
    path = answer.headers["Location"]
    job = service_of(client).job(answer.json()["id"])
    assert job is not None
    assert job.wait(SOON) is JobState.DONE
    keywords = pipeline.drawing().keywords
    assert {name: keywords[name] for name in ("num_inference_steps", "seed")} == {"num_inference_steps": 2, "seed": 7}
    assert "negative_prompt" not in keywords
    told = client.get(path).json()
    assert (told["state"], told["step"], told["steps"], told["error"]) == ("done", 2, 2, None)
    assert [picture["url"] for picture in told["pictures"]] == [f"{path[1:]}/pictures/{index}" for index in (0, 1)]
    assert told["pictures"][0]["settings"].startswith("a cat\nSteps: 2")
    for format in ("png", "jpeg", "webp"):
        file = client.get(f"{path}/pictures/1?format={format}&quality=50")
        assert (file.status_code, file.headers["Content-Type"]) == (200, f"image/{format}")
        assert Image.open(BytesIO(file.content)).size == (32, 32)
        (tmp_path / format).write_bytes(file.content)
        assert read_parameters(tmp_path / format) == told["pictures"][1]["settings"]
    assert client.get(f"{path}/pictures/2").status_code == 404
    assert client.get(f"{path}/pictures/0?format=gif").status_code == 422
    listed = client.get("/v1/jobs").json()["jobs"]
    assert [(one["id"], one["pictures"][0]["settings"]) for one in listed] == [(job.id, None)]
    assert client.delete(path).status_code == 204
    assert client.get(path).status_code == 404


def test_pictures_in_orders(client: TestClient, pipeline: StandInPipeline) -> None:
    """They are decoded, and let go when the job has ended."""
    buffer = BytesIO()
    Image.new("RGB", (32, 32), "red").save(buffer, "PNG")
    picture = b64encode(buffer.getvalue()).decode()
    job = sent(client, image=picture, mask_image=f"data:image/png;base64,{picture}", strength=0.5)
    keywords = pipeline.drawing().keywords
    assert keywords["image"].getpixel((0, 0)) == (255, 0, 0)
    assert keywords["mask_image"].size == (32, 32)
    assert job.wait(SOON) is JobState.DONE
    assert job.order.pictures == ()
    assert job.order.keywords["strength"] == 0.5


def test_a_job_that_runs_can_be_cancelled(client: TestClient, pipeline: StandInPipeline) -> None:
    """It ends at its next step; another that waits is never begun."""
    pipeline.patient = True
    job = sent(client)
    drawing = pipeline.drawing()
    assert client.get(f"/v1/jobs/{job.id}/pictures/0").status_code == 409
    answer = client.delete(f"/v1/jobs/{job.id}")
    assert (answer.status_code, answer.json()["state"]) == (200, "running")
    drawing.go()
    assert job.wait(SOON) is JobState.CANCELLED
    assert drawing.future.step == 1
    told = client.get(f"/v1/jobs/{job.id}").json()
    assert told["error"]["code"] == "cancelled"
    assert client.get(f"/v1/jobs/{job.id}/pictures/0").status_code == 404


def test_a_full_queue_says_when_to_come_again(serve: Callable[..., TestClient], pipeline: StandInPipeline) -> None:
    """By what the orders before took; what was refused can be sent again."""
    pipeline.patient = True
    client = serve(at_once=1, queued=1)
    first = sent(client)
    pipeline.drawing().finish()
    assert first.wait(SOON) is JobState.DONE
    running, waiting = sent(client), sent(client)
    drawing = pipeline.drawing()
    service = service_of(client)
    service._seconds_per_cost = 100.0 / (running.cost.total + waiting.cost.total)
    answer = client.post("/v1/jobs", json=ORDER)
    assert (answer.status_code, answer.headers["Retry-After"]) == (429, "100")
    assert answer.json()["error"]["code"] == "queue_full"
    assert client.get(f"/v1/jobs/{waiting.id}").json()["position"] == 0
    assert client.delete(f"/v1/jobs/{waiting.id}").json()["state"] == "cancelled"
    assert sent(client).state is JobState.QUEUED
    drawing.finish()


def test_one_job_for_an_idempotency_key(client: TestClient, pipeline: StandInPipeline) -> None:
    """The same request finds its job; another is refused; one that was cancelled is drawn anew."""
    pipeline.patient = True
    key = {"Idempotency-Key": "abc"}
    first = sent(client, key)
    assert sent(client, key) is first
    assert sent(client, {"Idempotency-Key": "abd"}) is not first
    assert sent(client) is not first
    other = client.post("/v1/jobs", json={**ORDER, "seed": 8}, headers=key)
    assert (other.status_code, other.json()["error"]["code"]) == (422, "key_reused")
    assert client.post("/v1/jobs", json=ORDER, headers={"Idempotency-Key": "a" * 256}).status_code == 422
    first.cancel()
    assert not first.state.final  # it ends at its next step
    second = sent(client, key)
    assert second is not first
    pipeline.drawing().go()
    assert first.wait(SOON) is JobState.CANCELLED
    assert sent(client, key) is second


def test_a_job_whose_deadline_has_passed_is_not_drawn(
    serve: Callable[..., TestClient], pipeline: StandInPipeline
) -> None:
    """Its client is gone by then."""
    pipeline.patient = True
    client = serve(at_once=1)
    sent(client)
    drawing = pipeline.drawing()
    job = sent(client, {"X-Deadline-Seconds": "0.01"})
    assert job.wait(SOON) is JobState.EXPIRED
    assert client.get(f"/v1/jobs/{job.id}").json()["error"]["code"] == "expired"
    drawing.finish()
    for text in ("0", "-1", "nan", "inf", "soon", "1e9"):
        answer = client.post("/v1/jobs", json=ORDER, headers={"X-Deadline-Seconds": text})
        assert answer.status_code == 422, text


def test_a_server_that_drains_takes_nothing_on(client: TestClient, pipeline: StandInPipeline) -> None:
    """It still tells of its jobs."""
    job = sent(client)
    assert job.wait(SOON) is JobState.DONE
    service_of(client).drain(0.0)
    answer = client.post("/v1/jobs", json=ORDER)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "draining")
    assert "Retry-After" in answer.headers
    assert (client.get("/health/ready").status_code, client.get("/health/live").status_code) == (503, 200)
    assert client.get(f"/v1/jobs/{job.id}/pictures/0").status_code == 200


def test_what_is_refused_as_it_is_drawn(client: TestClient, pipeline: StandInPipeline) -> None:
    """The job tells why; of faults of ours nothing but that there was one."""
    for kind in (RequestError, NotFiniteError):
        pipeline.refuses = kind("got a cat, expected a dog; draw one")
        job = sent(client)
        assert job.wait(SOON) is JobState.FAILED
        told = client.get(f"/v1/jobs/{job.id}").json()["error"]
        assert (told["message"], told["type"]) == ("got a cat, expected a dog; draw one", "invalid_request_error")
    pipeline.refuses = None
    pipeline.patient = True
    job = sent(client)
    pipeline.drawing().fail(RuntimeError("secret inside"))
    assert job.wait(SOON) is JobState.FAILED
    told = client.get(f"/v1/jobs/{job.id}").json()
    assert told["error"]["type"] == "server_error"
    assert "secret" not in str(told)


@pytest.mark.parametrize("method", ["get", "delete"])
def test_unknown_jobs(client: TestClient, method: str) -> None:
    """Names of other things, and of nothing."""
    for name in ("0" * 32, "..", "%2e%2e", "a" * 64, "%00", "é"):
        assert getattr(client, method)(f"/v1/jobs/{name}/").status_code in (404, 405, 307), name
    assert getattr(client, method)(f"/v1/jobs/{'0' * 32}").status_code == 404
    assert client.get(f"/v1/jobs/{'0' * 32}/events").status_code == 404
    assert client.get(f"/v1/jobs/{'0' * 32}/pictures/0").status_code == 404


def test_results_are_forgotten_in_time(serve: Callable[..., TestClient]) -> None:
    """Also where nothing else happens."""
    client = serve(kept_seconds=100.0)
    job = sent(client)
    assert job.wait(SOON) is JobState.DONE
    assert job.ended is not None
    job.ended = time.time() - 101.0
    assert client.get(f"/v1/jobs/{job.id}").status_code == 404


def test_options(client: TestClient) -> None:
    """What requests may name."""
    told = client.get("/v1/options").json()
    (model,) = told["models"]
    assert model["name"] == "tiny"
    assert model["sizes"] == [{"width": 32, "height": 32, "batch": 2}, {"width": 48, "height": 32, "batch": 1}]
    assert {"name": "euler", "label": "Euler"} in told["samplers"]
    assert told["loras"] == ["style"]
