"""Warming: every size of a model is drawn once before clients are sent, so that the first of them waits no longer."""

from collections.abc import Sequence

from PIL import Image

from latentrt.engines.bundle.records.conditioning import Task
from latentrt.runtime.serving.jobs.job import Job, JobState
from latentrt.runtime.serving.jobs.order import Order
from latentrt.runtime.serving.jobs.service import Service

_STEPS, _STRENGTH = 2, 0.5  # of which one is done: encoder, U-Net and decoder run


def warm(service: Service, model: str) -> None:
    """Opens a model, and draws one picture of each of its sizes that may be asked for.

    Raises:
        Exception: what kept a picture from being drawn.
    """
    jobs = []
    for width, height in sizes_of(service, model):
        blank = Image.new("RGB", (width, height))
        manifest = service.models.bundle(model).manifest
        keywords = {"image": blank, "num_inference_steps": _STEPS, "seed": 0}
        if manifest.conditioning.task is Task.PICTURES:
            keywords["strength"] = _STRENGTH
        if manifest.unet_takes_mask:
            keywords["mask_image"] = Image.new("L", (width, height), 255)
        jobs.append(service.submit(Order(prompt="", model=model, keywords=keywords)))
    for job in jobs:
        _check(job)
        service.forget(job)


def sizes_of(service: Service, model: str) -> Sequence[tuple[int, int]]:
    """The widths and heights of a model that may be asked for."""
    profiles = service.models.bundle(model).manifest.profiles
    sizes = dict.fromkeys((profile.width, profile.height) for profile in profiles)
    allowed = service.limits.sizes
    return [size for size in sizes if allowed is None or size in allowed]


def _check(job: Job) -> None:
    if job.wait() is JobState.FAILED and job.error is not None:
        raise job.error
