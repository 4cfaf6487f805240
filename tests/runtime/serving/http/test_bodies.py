"""Bodies are bounded while they arrive."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
from asgi_call import Call
from starlette.testclient import TestClient

from latentrt.runtime.serving.http.settings import Settings

REGIONS = json.dumps([{"prompt": "b", "box": [0, 0, 1, 1]}] * 17).encode()
JSON = ("Content-Type", "application/json")
BODY = json.dumps({"prompt": "a cat"}).encode()


@pytest.fixture(scope="module")
def client(steady: Callable[..., TestClient]) -> TestClient:
    return steady()


def answer(call: Call) -> Call:
    """The call once it was answered."""

    async def run() -> None:
        async with call.running():
            pass

    asyncio.run(run())
    return call


def test_an_announced_body_is_not_read(serve: Callable[..., TestClient]) -> None:
    """Its length is in the header. The answer is there first; then what the client sends on is let go."""
    client = serve(Settings(body_bytes=100))

    class Announced(Call):
        async def _receive(self) -> dict[str, Any]:
            assert self.status == 413
            return await super()._receive()

    call = answer(Announced(client.app, "POST", "/v1/jobs", body=[b"x"] * 9, headers=[JSON, ("Content-Length", "101")]))
    assert (call.status, call.reads) == (413, 9)
    assert call.headers["connection"] == "close"
    assert "at most" in call.json["error"]["message"]


@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/images/edits"])
def test_a_chunked_body_is_read_no_further(serve: Callable[..., TestClient], path: str) -> None:
    """Whatever it is for."""
    kind, begin = JSON, b""
    if path.endswith("edits"):
        kind = ("Content-Type", "multipart/form-data; boundary=x")
        begin = b'--x\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'
    call = Call(serve(Settings(body_bytes=100)).app, "POST", path, body=[begin, *[b"x" * 40] * 10], headers=[kind])
    assert answer(call).status == 413
    assert call.reads_before <= 4
    assert "error" in call.json


def test_all_bodies_together_are_bounded(serve: Callable[..., TestClient]) -> None:
    """What one holds is free again once it was answered."""
    app = serve(Settings(bodies_bytes=100)).app
    first = Call(app, "POST", "/v1/jobs", body=[b" " * 90, b" " * 20], headers=[JSON])
    assert answer(first).status == 429
    assert int(first.headers["retry-after"]) >= 1
    assert answer(Call(app, "POST", "/v1/jobs", body=[BODY], headers=[JSON])).status == 202


def test_refused_bodies_make_no_room_for_more(serve: Callable[..., TestClient]) -> None:
    """What is taken off of one that was too large is what it was counted for."""
    app = serve(Settings(body_bytes=100, bodies_bytes=95)).app
    assert answer(Call(app, "POST", "/v1/jobs", body=[b" " * 90] * 3, headers=[JSON])).status == 413
    assert answer(Call(app, "POST", "/v1/jobs", body=[b" " * 96], headers=[JSON])).status == 429


def test_a_body_that_never_comes_is_given_up(serve: Callable[..., TestClient]) -> None:
    """It would hold its connection for ever."""

    class Stalled(Call):
        async def _receive(self) -> dict[str, Any]:
            self.reads += 1
            if self.reads > 1:
                await asyncio.Event().wait()
            return {"type": "http.request", "body": b"{", "more_body": True}

    call = answer(Stalled(serve(Settings(body_seconds=0.01)).app, "POST", "/v1/jobs", headers=[JSON]))
    assert call.status == 408


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        (b"", 422, "got no body"),
        (b"{", 400, "no JSON"),
        (b"[" * 100_000, 400, "no JSON"),
        (b'{"guidance_scale": NaN}', 400, "no JSON"),
        (b'{"guidance_scale": 1e999}', 422, "finite"),
        (b'{"prompt": "\\ud800"}', 400, "no JSON"),
        (b'{"prompt": "\xff"}', 400, "no JSON"),
        (b"null", 422, "expected"),
        (b"[]", 422, "expected"),
        (b'{"promt": "a cat"}', 422, "got promt, which is no field here"),
        (b'{"prompt": 1}', 422, "got prompt 1, expected a valid string or a valid list"),
        (b'{"prompt": "a", "width": 1e300}', 422, "width"),
        (b'{"prompt": "a", "width": ' + b"9" * 4000 + b"}", 422, ""),
        (b'{"prompt": "a", "num_inference_steps": 99999999999999999999}', 422, "steps"),
        (b'{"prompt": "a", "hires": {"scale": 1e300}}', 422, "scale"),
        (b'{"prompt": "a", "width": 33}', 422, "33"),
        (b'{"prompt": "a", "sampler": "no-such"}', 422, "no-such"),
        (b'{"prompt": "a", "loras": {"other": 1}}', 422, "expected one of: style"),
        (b'{"prompt": "a", "control": [{"net": "../x", "image": "aaaa"}]}', 422, "format"),
        (b'{"prompt": "a", "seed": [1, 2, 3]}', 422, "seed"),
        (b'{"prompt": "a", "model": "/etc"}', 422, "expected one of: tiny"),
        (b'{"prompt": "a", "image": "http://example.com/a.png"}', 422, "nothing is fetched"),
        (b'{"prompt": "a", "image": "file:///etc/passwd"}', 422, "nothing is fetched"),
        (b'{"prompt": "a", "wildcards": "/etc"}', 422, "wildcards"),
        (b'{"prompt": "' + b"a" * 30_000 + b'"}', 422, "prompts of 30000 bytes"),
        (b'{"prompt": "' + b"a BREAK " * 40 + b'"}', 422, "41 parts"),
        (b'{"prompt": "a", "regions": ' + REGIONS + b"}", 422, "17 parts"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_in_a_sentence(client: TestClient, body: bytes, status: int, message: str) -> None:
    """Nothing of it was taken on, and no answer has a traceback or is long."""
    answer = client.post("/v1/jobs", content=body, headers=dict([JSON]))
    told = answer.json()["error"]
    assert (answer.status_code, message in told["message"]) == (status, True), told
    assert "Traceback" not in answer.text
    assert len(answer.content) < 3000
    assert client.get("/v1/jobs").json() == {"jobs": []}


def test_a_body_of_another_type_is_refused(client: TestClient) -> None:
    """Forms of other sites' pages can send text."""
    answer = client.post("/v1/jobs", content=BODY, headers={"Content-Type": "text/plain"})
    assert answer.status_code == 422
    assert "Content-Type: application/json" in answer.json()["error"]["message"]
