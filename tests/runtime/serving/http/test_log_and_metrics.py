"""What the log has, and what Prometheus reads."""

import logging
from collections.abc import Callable

import pytest
from prometheus_client.parser import text_string_to_metric_families
from stand_in_pipeline import SOON, StandInPipeline
from starlette.testclient import TestClient
from waiting import until

from latentrt.runtime.serving.jobs.job import JobState

SECRET = "a very private wish"


def drawn(client: TestClient, **keywords: object) -> JobState:
    answer = client.post("/v1/jobs", json={"prompt": SECRET, "num_inference_steps": 2, **keywords})
    return client.app.state.service.job(answer.json()["id"]).wait(SOON)  # type: ignore[attr-defined,no-any-return]


def test_no_prompt_is_logged(client: TestClient, pipeline: StandInPipeline, caplog: pytest.LogCaptureFixture) -> None:
    """A job has a line, a fault its kind and place; of a message that quotes the prompt nothing is kept."""
    caplog.set_level(logging.DEBUG)
    assert drawn(client, negative_prompt=SECRET) is JobState.DONE
    client.post(f"/v1/jobs?prompt={SECRET}", json={"prompt": SECRET, "sampler": SECRET})
    pipeline.refuses = ValueError(f"cannot draw {SECRET!r}")
    assert drawn(client) is JobState.FAILED
    pipeline.refuses = ValueError("no memory")
    assert drawn(client) is JobState.FAILED
    until(lambda: "no memory" in caplog.text and "service.py" in caplog.text)  # it is logged once the job has ended
    text = caplog.text
    assert "model=tiny pictures=1 size=32x32 steps=2" in text
    assert "state=done" in text
    assert "error=ValueError" in text
    assert "no memory" in text
    assert "service.py" in text
    assert SECRET not in text


def test_a_fault_of_a_route_is_told_to_the_log_alone(
    client: TestClient, pipeline: StandInPipeline, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The client gets one sentence."""

    def broken(_: object) -> None:
        raise KeyError(SECRET)

    monkeypatch.setattr(client.app.state.service, "job", broken)  # type: ignore[attr-defined]
    answer = client.get("/v1/jobs/abc")
    assert answer.status_code == 500
    assert answer.json()["error"]["message"] == "the server could not answer; its log says more"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert "KeyError" in caplog.text
    assert SECRET not in caplog.text


def test_metrics(serve: Callable[..., TestClient], pipeline: StandInPipeline) -> None:
    """Requests by route, jobs by their end, steps by size, what was refused, and the process."""
    client = serve(at_once=1, queued=1)
    assert drawn(client) is JobState.DONE
    pipeline.patient = True
    pipeline.drawing()
    for status in (202, 202, 429):
        assert client.post("/v1/jobs", json={"prompt": SECRET}).status_code == status
        if status == 202 and client.app.state.service.running:  # type: ignore[attr-defined]
            continue
    drawing = pipeline.drawing()
    client.get("/no/such/path")
    client.request("BREW", "/v1/jobs")
    answer = client.get("/metrics")
    assert answer.headers["Content-Type"].startswith("text/plain")
    values = {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }
    assert values["latentrt_http_requests_total", "/v1/jobs", "202", "POST"] == 3
    assert values["latentrt_http_requests_total", "404", "GET", "none"] == 1
    assert values["latentrt_http_requests_total", "/v1/jobs", "405", "other"] == 1
    assert values["latentrt_jobs_total", "done", "tiny"] == 1
    assert values["latentrt_pictures_total", "tiny"] == 1
    assert values["latentrt_step_seconds_count", "1", "32x32", "tiny"] == 2
    assert values["latentrt_stage_seconds_count", "decode", "tiny"] == 1
    assert values["latentrt_orders_refused_total", "queue_full"] == 1
    assert (values[("latentrt_queue_depth",)], values[("latentrt_jobs_running",)]) == (1, 1)
    assert values[("latentrt_models_open",)] == 1
    assert values["latentrt_calls_per_run_bucket", "2", "tiny"] == 3
    assert values["latentrt_calls_per_run_sum", "tiny"] == 11
    assert values[("process_resident_memory_bytes",)] > 0
    assert SECRET not in answer.text
    drawing.finish()
