"""What a replica adds to the server, without Ray."""

import sys
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import ValidationError
from starlette.testclient import TestClient

from latentrt.engines.errors import EngineError, RequestError
from latentrt.ray import Arguments, build
from latentrt.runtime.serving.jobs.catalog import Catalog
from latentrt.runtime.serving.jobs.job import JobState
from latentrt.runtime.serving.ray.rendering import outcomes_on_ray
from latentrt.runtime.serving.ray.replica import Faults
from latentrt.runtime.serving.ray.replicas import Routing
from latentrt.runtime.serving.ray.stateful import OneReplica
from latentrt.runtime.serving.render.renderer import Rendering


async def answers(scope: Any, receive: Any, send: Any) -> None:
    """An application that takes whatever it is sent."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"{}"})


@pytest.mark.parametrize("routing", Routing)
def test_what_one_replica_knows_is_refused(routing: Routing) -> None:
    """In the form that clients of the path read; a session finds its replica, where sessions are routed."""
    client, session = TestClient(OneReplica(answers, routing)), {"X-Session-Id": "one"}
    own = [("POST", "/v1/jobs"), ("GET", "/v1/jobs/1/events"), ("POST", "/sdapi/v1/interrupt"), ("GET", "/")]
    for method, path in (*own, ("POST", "/sdapi/v1/options")):
        refused = client.request(method, path)
        assert refused.status_code == 409
        assert "several" in refused.text
        assert ("error" in refused.json()) is True
        assert client.request(method, path, headers=session).status_code == (200 if routing == "sessions" else 409)
    for method, path in (("POST", "/v1/images/generations"), ("GET", "/sdapi/v1/options"), ("GET", "/v1/models")):
        assert client.request(method, path).status_code == 200


def test_a_replica_that_draws_no_more_is_not_healthy() -> None:
    """Faults in a row count; a request that cannot be served is none."""
    listeners: list[Any] = []
    faults = Faults(SimpleNamespace(watch=listeners.append))  # type: ignore[arg-type]
    failed = SimpleNamespace(state=JobState.FAILED, error=EngineError("the GPU is lost"))
    refused = SimpleNamespace(state=JobState.FAILED, error=RequestError("got no cat"))
    done = SimpleNamespace(state=JobState.DONE, error=None)
    for job in (failed, failed, done, failed, refused, failed):
        listeners[0](job)
        faults.check()
    listeners[0](failed)
    with pytest.raises(RuntimeError, match="the last 3 jobs failed"):
        faults.check()


def test_arguments_come_as_texts() -> None:
    """As ``serve run`` has them; mistakes are named."""
    arguments = Arguments.model_validate({"bundles": "a.bundle,b.bundle", "replicas": "2", "gpus": "0.5"})
    assert ([str(path) for path in arguments.bundles], arguments.replicas, arguments.gpus) == (
        ["a.bundle", "b.bundle"],
        2,
        0.5,
    )
    assert "secret" not in repr(Arguments(bundles="a.bundle", token="secret"))  # type: ignore[arg-type]
    with pytest.raises(ValidationError, match="bundels"):
        Arguments.model_validate({"bundels": "a.bundle"})


def test_without_ray_it_is_said(tiny_bundle: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What to install."""
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(EngineError, match=r"install latentrt\[ray\]"):
        build(Arguments(bundles=[tiny_bundle]))
    rendering = Rendering(catalog=Catalog(models={}), opens=lambda path: None, folder=tmp_path)  # type: ignore[arg-type,return-value]
    with pytest.raises(EngineError, match=r"install latentrt\[ray\]"):
        list(outcomes_on_ray([], rendering))
    with pytest.raises(RequestError, match="got 0 actors"):
        list(outcomes_on_ray([], rendering, actors=0))
