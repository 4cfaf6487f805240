"""What happens to a job, as server-sent events."""

from collections.abc import AsyncGenerator
from time import monotonic

from PIL import Image
from starlette.requests import Request

from latentrt.runtime.serving.http.jobs.told import body_from_job
from latentrt.runtime.serving.http.pictures import data_url
from latentrt.runtime.serving.http.streams import COMMENT, event_text
from latentrt.runtime.serving.http.waiting import in_thread, steps_of
from latentrt.runtime.serving.jobs.job import Job
from latentrt.runtime.serving.jobs.service import Service

_LOOK = 1.0  # seconds after which the place in the queue is looked at again
_STEPS = 0.05  # seconds between two that are told: more often they would cost what draws more than they show
_PREVIEWS = 0.1  # likewise


async def events_of(request: Request, service: Service, job: Job) -> AsyncGenerator[bytes, None]:
    """The job's states, its steps, and previews of it; who reads slowly gets the newest of them."""
    keep_alive: float = request.app.state.settings.keep_alive
    state, told, spoke, shown_step, shown_at = job.state, b"", monotonic(), 0, 0.0
    async for _ in steps_of(job, every=min(_LOOK, keep_alive)):
        if told and job.state is state and monotonic() - spoke < _STEPS:
            continue
        state = job.state
        body = body_from_job(service, job, settings=job.state.final)
        text = event_text(body.model_dump(mode="json"), str(body.state))
        now = monotonic()
        if text != told:
            told, spoke = text, now
            yield text
        elif now - spoke >= keep_alive:
            spoke = now
            yield COMMENT
        if body.state.final or job.step == shown_step or now - shown_at < _PREVIEWS:
            continue
        step = job.step
        images = job.preview()
        if images:
            shown_step, shown_at = step, now
            urls = await in_thread(request, _urls, images)
            yield event_text({"step": step, "steps": job.steps, "images": urls}, "preview")


def _urls(images: list[Image.Image]) -> list[str]:
    return [data_url(image) for image in images]
