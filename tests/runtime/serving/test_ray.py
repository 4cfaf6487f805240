"""Real Ray: orders drawn by a pool of processes, and the server as an application; what is killed comes back."""

import base64
import io
import signal
import socket
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
from PIL import Image

import latentrt
from latentrt.engines.errors import EngineError
from latentrt.opening import open_pipeline
from latentrt.runtime.serving.jobs.catalog import Catalog
from latentrt.runtime.serving.ray.rendering import outcomes_on_ray
from latentrt.runtime.serving.render.reading import lines_from_text
from latentrt.runtime.serving.render.renderer import Renderer, Rendering

ray = pytest.importorskip("ray", reason="make test-all installs it")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning")]  # of Ray about itself

SOON = 120.0  # seconds that nothing here takes
TOKEN = {"Authorization": "Bearer secret"}


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """Ray on this machine."""
    ray.init(num_cpus=2, include_dashboard=False, object_store_memory=100 << 20, log_to_driver=False)
    yield
    ray.shutdown()


def workers(title: str) -> list[psutil.Process]:
    """The processes of our cluster with this in their title."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if any(title in text for text in process.cmdline()):
                found.append(process)
        except psutil.Error:  # it has ended
            continue
    return found


def eventually(holds: Callable[[], bool]) -> bool:
    """Whether something holds soon."""
    never = Event()
    return any(holds() or never.wait(0.1) for _ in range(int(SOON * 10)))


def started() -> int:
    """Starts Ray Serve at a port that is free."""
    from ray import serve

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    return port


@pytest.fixture
def rendering(tiny_bundle: Path, tmp_path: Path) -> Rendering:
    """Into a folder, with a thread a process."""
    (tmp_path / "ray").mkdir()
    (tmp_path / "alone").mkdir()
    opens = partial(open_pipeline, threads=1)
    return Rendering(catalog=Catalog(models={"tiny": tiny_bundle}), opens=opens, folder=tmp_path / "ray")


@pytest.fixture(scope="class")
def url(cluster: None, tiny_bundle: Path, half_bundle: Path) -> Iterator[str]:
    """The server with two models and one replica."""
    from ray import serve

    from latentrt.ray import Arguments, build

    port = started()
    serve.run(build(Arguments(bundles=f"{tiny_bundle},{half_bundle}", token="secret")), name="latentrt")
    yield f"http://127.0.0.1:{port}"
    serve.shutdown()


class TestRendering:
    """``latentrt render --ray``."""

    def test_a_killed_process_costs_nothing(self, cluster: None, rendering: Rendering, tmp_path: Path) -> None:
        """The files are those of the plain loop, and each order is told once."""
        text = '{"prompt": "a cat", "num_inference_steps": 40}\n' * 11 + '{"prompt": ["a cat", "a dog"]}'
        lines = lines_from_text(text, "orders", tmp_path, rendering.catalog)
        outcomes = outcomes_on_ray(lines, rendering, actors=2)
        told = [next(outcomes)]
        (victim, *_) = workers("MapWorker")
        victim.send_signal(signal.SIGKILL)
        assert len(list(rendering.folder.iterdir())) < 12  # in the middle
        told += outcomes
        assert sorted(outcome.line for outcome in told) == list(range(1, 13))
        assert not victim.is_running()

        alone = Rendering(catalog=rendering.catalog, opens=rendering.opens, folder=tmp_path / "alone")
        with Renderer(alone) as renderer:
            expected = {outcome.digest: outcome for outcome in renderer.draw(lines)}
        for outcome in told:
            assert outcome.error is None
            assert outcome.files == expected[outcome.digest].files
        files = {path.name: path.read_bytes() for path in alone.folder.iterdir()}
        assert {path.name: path.read_bytes() for path in rendering.folder.iterdir()} == files
        assert len(files) == 13

    def test_the_command_draws_with_it(
        self, cluster: None, tiny_bundle: Path, command: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """And goes on without it; an order that fails is told."""
        monkeypatch.chdir(tmp_path)
        Path("orders.jsonl").write_text('{"prompt": "a cat", "num_inference_steps": 1}\n' * 3)
        ran = command("render", tiny_bundle, "orders.jsonl", "-o", "out", "--ray", "--actors", 1)
        assert ran.status == 0, ran.stderr
        assert ran.stdout.splitlines()[-1].endswith("(3 orders, 3 of them new, 0 failed)")
        ran = command("render", tiny_bundle, "orders.jsonl", "-o", "out")
        assert ran.stdout.splitlines()[-1].endswith("(3 orders, 0 of them new, 0 failed)")

    def test_a_model_that_cannot_be_opened_there_is_told(self, cluster: None, rendering: Rendering) -> None:
        """In a sentence, not as a trace of another process."""
        lines = lines_from_text('{"prompt": "a cat"}', "orders", Path(), rendering.catalog)
        opens = partial(open_pipeline, backend="magic")
        broken = Rendering(catalog=rendering.catalog, opens=opens, folder=rendering.folder)
        with pytest.raises(EngineError, match=r"^Ray could not draw: got backend 'magic', [^\n]*$"):
            list(outcomes_on_ray(lines, broken, actors=1))


class TestServing:
    """``latentrt.ray:build``."""

    def test_a_request_is_what_the_pipeline_draws(self, url: str, tiny_bundle: Path, half_bundle: Path) -> None:
        """Of each model; who has no token gets nothing."""
        order = {"prompt": "a cat", "steps": 3, "seed": 5, "size": "32x32"}
        assert httpx.post(f"{url}/v1/images/generations", json=order).status_code == 401
        for bundle in (tiny_bundle, half_bundle):
            body = {**order, "model": bundle.name.removesuffix(".bundle")}
            answer = httpx.post(f"{url}/v1/images/generations", json=body, headers=TOKEN, timeout=SOON)
            assert answer.status_code == 200, answer.text
            drawn = Image.open(io.BytesIO(base64.b64decode(answer.json()["data"][0]["b64_json"])))
            with latentrt.open_pipeline(bundle) as pipe:
                expected = pipe("a cat", num_inference_steps=3, seed=5, width=32, height=32).images[0]
            np.testing.assert_array_equal(np.asarray(drawn), np.asarray(expected))

    def test_who_disconnects_ends_the_drawing(self, url: str) -> None:
        """At its next step, in the replica."""
        order = {"prompt": "a cat", "steps": 200, "n": 8, "seed": 1, "size": "32x32"}
        with pytest.raises(httpx.TimeoutException):
            httpx.post(f"{url}/v1/images/generations", json=order, headers=TOKEN, timeout=0.3)

        def cancelled() -> bool:
            jobs = httpx.get(f"{url}/v1/jobs", headers=TOKEN, timeout=SOON).json()["jobs"]
            return [job["state"] for job in jobs if job["steps"] in (0, 200)] == ["cancelled"]

        assert eventually(cancelled)

    def test_a_killed_replica_comes_back(self, url: str) -> None:
        """Opened and warmed, before it is sent requests."""
        (victim,) = workers("ServeReplica")
        victim.send_signal(signal.SIGKILL)
        order = {"prompt": "a cat", "steps": 1, "seed": 1, "size": "32x32"}

        def answers() -> bool:
            answer = httpx.post(f"{url}/v1/images/generations", json=order, headers=TOKEN, timeout=SOON)
            return answer.status_code == 200

        assert eventually(answers)
        assert victim.pid not in (process.pid for process in workers("ServeReplica"))


class TestSeveralReplicas:
    """Jobs by their ids, where several answer."""

    def test_a_session_finds_its_jobs(self, cluster: None, tiny_bundle: Path) -> None:
        """With its header; without, requests about jobs are refused."""
        from ray import serve

        from latentrt.ray import Arguments, build

        pytest.importorskip("ray.serve.experimental.consistent_hash_router", reason="Ray before 2.60")
        port = started()
        serve.run(build(Arguments(bundles=str(tiny_bundle), replicas=2, routing="sessions")), name="latentrt")
        url, order = f"http://127.0.0.1:{port}/v1/jobs", {"prompt": "a cat", "num_inference_steps": 1}
        try:
            refused = httpx.post(url, json=order)
            assert (refused.status_code, "X-Session-Id" in refused.text) == (409, True)
            for session in ("one", "two", "three", "four"):
                header = {"X-Session-Id": session}
                job = httpx.post(url, json=order, headers=header, timeout=SOON).json()
                states = {httpx.get(f"{url}/{job['id']}", headers=header).status_code for _ in range(8)}
                assert states == {200}
            assert len(workers("ServeReplica")) == 2
        finally:
            serve.shutdown()
