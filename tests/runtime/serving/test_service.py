"""The service: what it takes on, in which order it draws, and what becomes of each order."""

import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from pathlib import Path
from threading import Event
from types import SimpleNamespace
from typing import Any

import pytest

from latentrt.engines.errors import EngineError, RequestError
from latentrt.runtime.call.hires.hires import Hires
from latentrt.runtime.prompts.region import Region
from latentrt.runtime.serving.jobs.catalog import Catalog
from latentrt.runtime.serving.jobs.errors import CostError, DrainingError, QueueFullError, UnknownNameError
from latentrt.runtime.serving.jobs.job import Job, JobState
from latentrt.runtime.serving.jobs.limits import Limits
from latentrt.runtime.serving.jobs.models import Models
from latentrt.runtime.serving.jobs.order import Order, cost_of
from latentrt.runtime.serving.jobs.service import Service

DRAWN: Any = SimpleNamespace(images=[], latents=SimpleNamespace(nbytes=0))
SOON = 20.0  # seconds that nothing here takes


class StubFuture(Future[Any]):
    """A drawing that goes on as the test says."""

    def __init__(self, progress: Callable[[int, int], None]) -> None:
        super().__init__()
        self.set_running_or_notify_cancel()
        self.progress = progress
        self.interrupted = False

    def cancel(self) -> bool:
        if not self.done():
            self._state = "CANCELLED_AND_NOTIFIED"
            self._invoke_callbacks()  # type: ignore[attr-defined]
        return True

    def interrupt(self) -> bool:
        self.interrupted = True
        return True

    def preview(self) -> list[Any]:
        return ["preview"]


class Stub:
    """A pipeline that draws nothing; what was submitted to it is kept."""

    def __init__(self, path: Path) -> None:
        self.path, self.closed, self.loras = path, False, ()
        self.submitted: list[tuple[Any, Mapping[str, Any], StubFuture]] = []
        self.refuses: Exception | None = None

    def submit(self, prompt: Any, *, progress: Callable[[int, int], None], **keywords: Any) -> StubFuture:
        if self.refuses is not None:
            raise self.refuses
        future = StubFuture(progress)
        self.submitted.append((prompt, keywords, future))
        return future

    def close(self) -> None:
        self.closed = True


class Opens:
    """Opens stubs; the names in ``held`` only once they are let go."""

    def __init__(self) -> None:
        self.stubs: dict[str, Stub] = {}
        self.held: dict[str, Event] = {}
        self.fails: dict[str, Exception] = {}

    def __call__(self, path: Path) -> Any:
        name = path.name
        if name in self.held:
            assert self.held[name].wait(SOON)
        if name in self.fails:
            raise self.fails.pop(name)
        self.stubs[name] = Stub(path)
        return self.stubs[name]


@pytest.fixture
def opens() -> Opens:
    return Opens()


@pytest.fixture
def serve(tiny_bundle: Path, tmp_path: Path, opens: Opens) -> Iterator[Callable[..., Service]]:
    """Makes a service over models that are all the tiny bundle under other names."""
    made: list[Service] = []

    def service(*names: str, byte_limit: int | None = None, **limits: Any) -> Service:
        paths = {}
        for name in names or ("a",):
            paths[name] = tmp_path / name
            paths[name].symlink_to(tiny_bundle)
        catalog = Catalog(models=paths, loras={"style": tmp_path / "style"}, nets={"canny": tmp_path / "canny"})
        made.append(Service(Models(catalog, opens, byte_limit=byte_limit), Limits(**limits)))
        return made[-1]

    yield service
    for one in made:
        for held in opens.held.values():
            held.set()
        one.close()


def order(prompt: str = "a cat", model: str | None = None, **keywords: Any) -> Order:
    return Order(prompt=prompt, model=model, keywords=keywords)


def until(condition: Callable[[], bool]) -> None:
    """Waits for what other threads bring about."""
    end = time.monotonic() + SOON
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


def drawing(job: Job, stub: Callable[[], Stub]) -> StubFuture:
    """The future of a job, once it is drawn."""
    until(lambda: job._future is not None or job.state.final)
    future: Any = job._future
    return future


def test_an_order_becomes_pictures(serve: Callable[..., Service], opens: Opens) -> None:
    """From the queue to the result, and who watches sees every change."""
    service = serve()
    seen: list[tuple[JobState, int]] = []
    job = service.submit(order(seed=3))
    job.watch(lambda job: seen.append((job.state, job.step)))
    future = drawing(job, lambda: opens.stubs["a"])
    assert opens.stubs["a"].submitted[0][:2] == ("a cat", {"seed": 3})
    future.progress(1, 2)
    assert job.preview() == ["preview"]
    assert (job.step, job.steps, job.state) == (1, 2, JobState.RUNNING)
    future.set_result(DRAWN)
    assert job.wait(SOON) is JobState.DONE
    assert job.result is DRAWN
    assert seen[-2:] == [(JobState.RUNNING, 1), (JobState.DONE, 1)]
    assert service.job(job.id) is job
    service.forget(job)
    assert service.job(job.id) is None


def test_the_oldest_is_drawn_first(serve: Callable[..., Service], opens: Opens) -> None:
    """One at once here: the others wait in the order in which they came."""
    service = serve(at_once=1)
    jobs = [service.submit(order(str(number))) for number in range(4)]
    for number, job in enumerate(jobs):
        future = drawing(job, lambda: opens.stubs["a"])
        assert [one.state for one in jobs[number + 1 :]] == [JobState.QUEUED] * (3 - number)
        assert [service.position(one) for one in jobs[number + 1 :]] == list(range(3 - number))
        future.set_result(None)
        job.wait(SOON)
    assert [prompt for prompt, *_ in opens.stubs["a"].submitted] == ["0", "1", "2", "3"]


def test_as_many_as_fill_the_engine_twice_are_drawn_at_once(serve: Callable[..., Service], opens: Opens) -> None:
    """The tiny bundle holds two pictures."""
    service = serve()
    jobs = [service.submit(order()) for _ in range(5)]
    until(lambda: sum(job._future is not None for job in jobs) == 4)
    assert (service.running, service.queued) == (4, 1)


def test_a_full_queue_says_when_to_come_again(serve: Callable[..., Service], opens: Opens) -> None:
    """By what an order took before."""
    service = serve(at_once=1, queued=1)
    first = service.submit(order())
    future = drawing(first, lambda: opens.stubs["a"])
    assert first.started is not None
    first.started -= 50
    future.set_result(None)
    first.wait(SOON)
    service.submit(order())
    until(lambda: service.running == 1)
    service.submit(order())
    with pytest.raises(QueueFullError, match="1 orders wait") as full:
        service.submit(order())
    assert 99 < full.value.retry_after < 102


def test_orders_that_end_together_are_reckoned_as_drawn_together(serve: Callable[..., Service], opens: Opens) -> None:
    """Also the last of them, beside which none runs any more."""
    service = serve(at_once=4)
    jobs = [service.submit(order()) for _ in range(4)]
    until(lambda: all(job._future is not None for job in jobs))
    for job in jobs:
        assert job.started is not None
        job.started -= 40
    for *_, future in tuple(opens.stubs["a"].submitted):
        future.set_result(None)
    for job in jobs:
        job.wait(SOON)
    service.submit(order())
    assert 9 < service.seconds_waiting < 12


def test_the_cost_of_what_waits_is_bounded(serve: Callable[..., Service]) -> None:
    """Steps × pixels × pictures of all that wait."""
    service = serve(at_once=0, queued_cost=0.03)
    service.submit(order(num_inference_steps=20))
    with pytest.raises(QueueFullError):
        service.submit(order(num_inference_steps=20))
    service.submit(order(num_inference_steps=2))


COSTLY: dict[str, tuple[dict[str, Any], str]] = {
    "pictures": ({"num_images_per_prompt": 17}, "17 pictures, expected at most 16"),
    "pixels": ({"width": 8192, "height": 8192}, "67108864 pixels, expected at most"),
    "steps": ({"num_inference_steps": 201}, "201 steps, expected at most 200"),
    "timesteps": ({"timesteps": list(range(300))}, "300 steps, expected at most 200"),
    "second pass": ({"num_inference_steps": 50, "hires": Hires(scale=3)}, "500 steps, expected at most 200"),
    "cost": ({"num_inference_steps": 100, "width": 4096, "height": 4096}, "expected a product of at most 1000 million"),
    "prompt": ({"negative_prompt": "x" * 20_001}, "prompts of 20006 bytes"),
    "region": ({"regions": [[Region("x" * 20_000, box=(0, 0, 1, 1))]]}, "prompts of 20005 bytes"),
}


@pytest.mark.parametrize("name", COSTLY)
def test_what_costs_too_much_is_refused(serve: Callable[..., Service], name: str) -> None:
    """Before anything is opened for it."""
    keywords, message = COSTLY[name]
    service = serve(cost=1000.0)
    with pytest.raises(CostError, match=message):
        service.submit(order(**keywords))
    assert service.jobs == ()


UNKNOWN: dict[str, tuple[dict[str, Any], str]] = {
    "model": ({"model": "b"}, "got model 'b', expected one of: a;"),
    "path as model": ({"model": "/etc"}, "got model '/etc'"),
    "lora": ({"loras": {"other": 1.0}}, "got LoRA 'other', expected one of: style;"),
    "lora in a prompt": ({"prompt": "<lora:../x:1>", "prompt_syntax": "a1111"}, r"got LoRA '\.\./x'"),
    "upscaler": ({"hires": Hires(upscaler="/etc/passwd")}, "got upscaler '/etc/passwd', expected one of: latent,"),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_names_outside_of_the_catalog_are_refused(serve: Callable[..., Service], name: str) -> None:
    """Paths among them: nothing on disk is looked for."""
    keywords, message = UNKNOWN[name]
    with pytest.raises(UnknownNameError, match=message):
        serve().submit(order(**keywords))


def test_a_request_that_cannot_be_served_fails_alone(serve: Callable[..., Service], opens: Opens) -> None:
    """What the pipeline refuses is the job's error; the next one is drawn."""
    service = serve()
    first = service.submit(order())
    drawing(first, lambda: opens.stubs["a"])
    opens.stubs["a"].refuses = RequestError("got nothing")
    second = service.submit(order())
    assert second.wait(SOON) is JobState.FAILED
    assert str(second.error) == "got nothing"
    opens.stubs["a"].refuses = None
    drawing(service.submit(order()), lambda: opens.stubs["a"]).set_exception(EngineError("NaN"))
    until(lambda: service.running == 1)
    assert [job.state for job in service.jobs] == [JobState.RUNNING, JobState.FAILED, JobState.FAILED]


def test_cancelled_where_it_waits_and_where_it_runs(serve: Callable[..., Service], opens: Opens) -> None:
    """At once in the queue; in the pipeline through the future."""
    service = serve(at_once=1)
    running, waiting = service.submit(order()), service.submit(order())
    drawing(running, lambda: opens.stubs["a"])
    waiting.cancel()
    assert waiting.state is JobState.CANCELLED
    running.cancel()
    assert running.wait(SOON) is JobState.CANCELLED
    assert (service.running, service.queued) == (0, 0)


def test_cancelled_while_its_model_is_opened(serve: Callable[..., Service], opens: Opens) -> None:
    """Nothing is drawn for it afterwards."""
    opens.held["a"] = Event()
    service = serve()
    job = service.submit(order())
    job.cancel()
    assert job.state is JobState.CANCELLED
    opens.held["a"].set()
    until(lambda: service.models.opened == ("a",))
    assert opens.stubs["a"].submitted == []


def test_expired_orders_are_not_drawn(serve: Callable[..., Service]) -> None:
    """Also where nothing else happens."""
    service = serve(at_once=0)
    job = service.submit(order(), deadline=time.time() + 0.01)
    assert job.wait(SOON) is JobState.EXPIRED
    assert service.queued == 0


def test_a_model_that_is_opened_keeps_nobody_waiting(serve: Callable[..., Service], opens: Opens) -> None:
    """Orders for others overtake those that wait for it."""
    opens.held["b"] = Event()
    service = serve("a", "b")
    slow = service.submit(order(model="b"))
    fast = service.submit(order(model="a"))
    drawing(fast, lambda: opens.stubs["a"]).set_result(None)
    assert fast.wait(SOON) is JobState.DONE
    assert slow.state is JobState.QUEUED
    opens.held["b"].set()
    drawing(slow, lambda: opens.stubs["b"]).set_result(None)
    assert slow.wait(SOON) is JobState.DONE


def test_the_model_that_was_used_longest_ago_leaves(serve: Callable[..., Service], opens: Opens) -> None:
    """Where the limit holds one; one that is in use stays, and younger orders for it wait as well."""
    service = serve("a", "b", byte_limit=1, at_once=2)
    first = service.submit(order(model="a"))
    future = drawing(first, lambda: opens.stubs["a"])
    other, third = service.submit(order(model="b")), service.submit(order(model="a"))
    assert (other.state, third.state) == (JobState.QUEUED, JobState.QUEUED)
    stub = opens.stubs["a"]
    future.set_result(None)
    drawing(other, lambda: opens.stubs["b"]).set_result(None)
    assert stub.closed
    drawing(third, lambda: opens.stubs["a"]).set_result(None)
    assert third.wait(SOON) is JobState.DONE
    assert opens.stubs["a"] is not stub
    assert service.models.opened == ("a",)


def test_a_model_that_leaves_slowly_holds_nobody_up(serve: Callable[..., Service], opens: Opens) -> None:
    """It is closed by the thread that opens the other, while the service answers."""
    service = serve("a", "b", byte_limit=1)
    first = service.submit(order(model="a"))
    drawing(first, lambda: opens.stubs["a"]).set_result(None)
    assert first.wait(SOON) is JobState.DONE
    stub, may_close = opens.stubs["a"], Event()
    close = stub.close
    stub.close = lambda: close() if may_close.wait(SOON) else None  # type: ignore[method-assign]
    other = service.submit(order(model="b"))
    assert service.job(other.id) is other
    assert not stub.closed
    may_close.set()
    drawing(other, lambda: opens.stubs["b"]).set_result(None)
    assert stub.closed


def test_a_model_that_cannot_be_opened_fails_its_orders(serve: Callable[..., Service], opens: Opens) -> None:
    """The next order tries again."""
    opens.fails["a"] = EngineError("no engine fits")
    service = serve()
    job = service.submit(order())
    assert job.wait(SOON) is JobState.FAILED
    assert str(job.error) == "no engine fits"
    drawing(service.submit(order()), lambda: opens.stubs["a"]).set_result(None)


def test_draining_finishes_what_runs(serve: Callable[..., Service], opens: Opens) -> None:
    """What waits is told, and nothing more is taken on."""
    service = serve(at_once=1)
    running, waiting = service.submit(order()), service.submit(order())
    future = drawing(running, lambda: opens.stubs["a"])
    assert not service.drain(0.0)
    assert running.wait(SOON) is JobState.CANCELLED
    assert waiting.state is JobState.CANCELLED
    assert isinstance(waiting.error, DrainingError)
    assert future.done()
    with pytest.raises(DrainingError):
        service.submit(order())


def test_old_jobs_are_forgotten(serve: Callable[..., Service], opens: Opens) -> None:
    """Too many, or too long ago; not those that have not ended."""
    service = serve(kept=1, kept_seconds=1000.0)
    running = service.submit(order())
    drawing(running, lambda: opens.stubs["a"])
    for _ in range(3):
        job = service.submit(order())
        drawing(job, lambda: opens.stubs["a"]).set_result(None)
        job.wait(SOON)
    last = service.submit(order())
    assert len(service.jobs) == 3
    assert {running, last} < set(service.jobs)
    assert job.ended is not None
    job.ended -= 2000.0
    service.submit(order())
    assert service.job(job.id) is None


def test_costs_are_reckoned_before_anything_is_opened(serve: Callable[..., Service]) -> None:
    """From the manifest and the keywords alone."""
    service = serve()
    manifest = service.models.bundle("a").manifest
    cost = cost_of(Order(prompt=("a", "b"), keywords={"num_images_per_prompt": 3, "width": 48, "height": 32}), manifest)
    assert (cost.pictures, cost.pixels, cost.steps) == (6, 48 * 32, manifest.defaults.num_inference_steps)
    assert cost.total == pytest.approx(cost.steps * 48 * 32 * 6 / 1e6)
