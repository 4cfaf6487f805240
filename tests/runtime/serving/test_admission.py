"""What a service does not take on, and how its models are warmed."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from weakref import ref

import pytest
from PIL import Image
from stand_in_pipeline import SOON, StandInPipeline
from waiting import until

from latentrt.engines.bundle.bundle import open_bundle
from latentrt.engines.errors import EngineError, RequestError
from latentrt.runtime.prompts.region import Region
from latentrt.runtime.serving.jobs.catalog import Catalog
from latentrt.runtime.serving.jobs.errors import CostError, QueueFullError
from latentrt.runtime.serving.jobs.job import Job, JobState
from latentrt.runtime.serving.jobs.limits import Limits
from latentrt.runtime.serving.jobs.models import Models
from latentrt.runtime.serving.jobs.order import Order
from latentrt.runtime.serving.jobs.service import Service
from latentrt.runtime.serving.jobs.warming import warm


@pytest.fixture
def pipeline(tiny_bundle: Path) -> StandInPipeline:
    return StandInPipeline(open_bundle(tiny_bundle).manifest)


@pytest.fixture
def serve(tiny_bundle: Path, pipeline: StandInPipeline) -> Iterator[Callable[..., Service]]:
    made: list[Service] = []

    def service(**limits: Any) -> Service:
        made.append(Service(Models(Catalog(models={"tiny": tiny_bundle}), pipeline), Limits(**limits)))
        return made[-1]

    yield service
    pipeline.let_go()
    for one in made:
        one.close()


def order(prompt: str = "a cat", **keywords: Any) -> Order:
    return Order(prompt=prompt, keywords=keywords)


def test_sizes_that_are_not_allowed(serve: Callable[..., Service]) -> None:
    """Though the model has them."""
    service = serve(sizes=frozenset({(32, 32)}))
    assert service.submit(order()).wait(SOON) is JobState.DONE
    with pytest.raises(CostError, match="got size 48x32, expected one of: 32x32;"):
        service.submit(order(width=48, height=32))


def test_what_makes_every_step_longer_is_bounded(serve: Callable[..., Service]) -> None:
    """Regions, and the parts of a prompt."""
    service = serve(parts=2, prompt_parts=3)
    regions = [Region("a dog", box=(0, 0, 0.5, 1))] * 3
    with pytest.raises(CostError, match="got 3 parts, expected at most 2"):
        service.submit(order(regions=regions))
    with pytest.raises(CostError, match="got prompts in 4 parts, expected at most 3"):
        service.submit(order("a AND b BREAK c AND d", prompt_syntax="a1111"))
    assert service.submit(order("a BAND b BREAKS c AND d", prompt_syntax="a1111")).wait(SOON) is JobState.DONE


def test_pictures_that_wait_are_bounded(serve: Callable[..., Service], pipeline: StandInPipeline) -> None:
    """One always may; orders without any go on waiting."""
    pipeline.patient = True
    service = serve(at_once=1, queued_picture_bytes=32 * 32 * 3)
    image = Image.new("RGB", (32, 32))
    service.submit(order())
    pipeline.drawing()
    service.submit(order(image=image))
    with pytest.raises(QueueFullError):
        service.submit(order(image=image))
    service.submit(order())
    assert service.queued == 2


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"sampler": "none"}, "sampler"),
        ({"width": 40, "height": 32}, "40x32"),
        ({"guidance_scale": [1.0, 2.0]}, "got 2 guidance scales"),
        ({"image": Image.new("RGB", (40, 32))}, "40x32"),
        ({"image": Image.new("RGB", (32, 32)), "strength": 2.0}, "strength"),
        ({"image": Image.new("RGB", (32, 32)), "hires": None, "num_inference_steps": 0}, "steps"),
    ],
)
def test_what_no_model_draws_is_refused_as_it_arrives(
    serve: Callable[..., Service], keywords: dict[str, Any], message: str
) -> None:
    """Before anything is opened."""
    service = serve()
    with pytest.raises(RequestError, match=message):
        service.submit(order(**keywords))
    assert service.models.opened == ()


def test_who_watches_a_service_hears_of_every_end(serve: Callable[..., Service], caplog: Any) -> None:
    """Once of each; one that fails harms nobody."""
    service, ended = serve(), []

    def broken(_: Job) -> None:
        raise ValueError

    service.watch(broken)
    stop = service.watch(ended.append)
    jobs = [service.submit(order()) for _ in range(3)]
    assert [job.wait(SOON) for job in jobs] == [JobState.DONE] * 3
    stop()
    assert service.submit(order()).wait(SOON) is JobState.DONE
    assert set(ended) <= set(jobs)
    assert len(ended) == len(set(ended))
    assert "a listener of job" in caplog.text


def test_warming_draws_every_size_once(serve: Callable[..., Service], pipeline: StandInPipeline) -> None:
    """Through encoder, U-Net and decoder; its jobs are forgotten."""
    service = serve()
    warm(service, "tiny")
    sizes = [pipeline.drawing().keywords["image"].size for _ in range(2)]
    assert sorted(sizes) == [(32, 32), (48, 32)]
    assert service.jobs == ()
    pipeline.refuses = EngineError("no memory")
    with pytest.raises(EngineError, match="no memory"):
        warm(service, "tiny")


def test_a_job_that_failed_keeps_no_pictures(serve: Callable[..., Service], pipeline: StandInPipeline) -> None:
    """Neither in its order nor in the frames that its error passed."""
    service = serve()
    pipeline.refuses = EngineError("no memory")
    image = Image.new("RGB", (32, 32))
    kept = ref(image)
    job = service.submit(order(image=image))
    assert job.wait(SOON) is JobState.FAILED
    del image
    until(lambda: kept() is None)
    assert job.error is pipeline.refuses
