"""The OpenAPI document: complete, and true of whatever it allows to be sent."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings, strategies
from hypothesis.errors import Unsatisfiable
from starlette.testclient import TestClient

from latentrt.opening import open_pipeline
from latentrt.runtime.serving.http.app import create_app
from latentrt.runtime.serving.http.settings import Settings
from latentrt.runtime.serving.jobs.catalog import Catalog
from latentrt.runtime.serving.jobs.limits import Limits
from latentrt.runtime.serving.jobs.models import Models
from latentrt.runtime.serving.jobs.service import Service


@pytest.fixture(scope="module")
def app(tiny_bundle: Path) -> Iterator[Any]:
    """A server of a real model, which draws little."""
    catalog = Catalog(models={"tiny": tiny_bundle})
    models = Models(catalog, lambda path: open_pipeline(path, threads=1))
    service = Service(models, Limits(steps=2, pixels=48 * 32, pictures=2, parts=2, queued=1000))
    yield create_app(service, Settings(body_bytes=1 << 20))
    service.close()


@pytest.fixture(scope="module")
def document(app: Any) -> Any:
    import schemathesis  # takes a second, which those that are not slow do without

    return schemathesis.openapi.from_asgi("/openapi.json", app)


def validate(case: Any) -> int:
    """Asks, checks the answer, and returns its status."""
    from schemathesis.specs.openapi.checks import positive_data_acceptance

    # What a document cannot say is refused with 422: an unknown sampler, a size without a profile
    status: int = case.call_and_validate(excluded_checks=[positive_data_acceptance]).status_code
    return status


bounded = settings(
    max_examples=60, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["positive", "negative"])
def test_what_the_document_allows_is_answered_as_it_says(document: Any, mode: str) -> None:
    """No status, type or form that it does not have, and never a fault of the server; what it forbids is refused."""
    from schemathesis import GenerationMode

    for result in document.get_all_operations():
        operation = result.ok()

        @settings(
            max_examples=60, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
        )
        @given(case=operation.as_strategy(generation_mode=GenerationMode(mode)))
        def ask(case: Any) -> None:
            validate(case)

        try:
            ask()
        except Unsatisfiable:
            assert mode == "negative"  # nothing can be wrong with a path alone


def test_every_operation_tells_its_errors(app: Any) -> None:
    """And each has a name of its own, a summary and a description."""
    told = TestClient(app).get("/openapi.json").json()
    names = []
    for path, operations in told["paths"].items():
        for method, operation in operations.items():
            where = f"{method} {path}"
            names.append(operation["operationId"])
            assert operation["summary"], where
            assert {"401", "403", "413", "421", "422", "429", "500"} <= operation["responses"].keys(), where
            assert all(response["description"] for response in operation["responses"].values()), where
    assert len(set(names)) == len(names)
    assert "HTTPValidationError" not in told["components"]["schemas"]


ORDERS: dict[str, dict[str, Any]] = {
    "/v1/jobs": {"prompt": "a cat", "num_inference_steps": 1},
    "/v1/images/generations": {"prompt": "a cat", "num_inference_steps": 1, "size": "32x32"},
    "/sdapi/v1/txt2img": {"prompt": "a cat", "steps": 1, "width": 32, "height": 32},
}
"""Orders that are drawn, by the routes that take them as JSON."""


@pytest.mark.slow
@pytest.mark.parametrize("path", ORDERS)
def test_a_sound_order_with_any_other_field(document: Any, path: str) -> None:
    """So that what lies behind the checks of the body is reached, too."""
    if path not in document.raw_schema["paths"]:
        pytest.skip("there is no such route")
    operation, answered = document[path]["POST"], set()

    @bounded
    @given(case=operation.as_strategy(), data=strategies.data())
    def ask(case: Any, data: Any) -> None:
        given_names = sorted(case.body) if isinstance(case.body, dict) else []
        names = data.draw(strategies.lists(strategies.sampled_from(given_names), max_size=1)) if given_names else []
        case.body, case.headers = {**ORDERS[path], **{name: case.body[name] for name in names}}, {}
        answered.add(validate(case))

    ask()
    assert answered & {200, 202}
