"""Jobs as the server tells of them."""

from pydantic import BaseModel, Field

from latentrt.runtime.serving.http.errors import ErrorDetail
from latentrt.runtime.serving.http.waiting import refusal_of
from latentrt.runtime.serving.jobs.job import Job, JobState
from latentrt.runtime.serving.jobs.service import Service


class PictureBody(BaseModel):
    """A finished picture: where it is, and how it was drawn."""

    url: str = Field(description="Relative to the server's root; ?format=png, jpeg or webp.")
    width: int
    height: int
    seed: int
    settings: str | None = Field(None, description="A1111's text of settings; not in lists.")


class JobBody(BaseModel):
    """A job. Times are seconds since 1970, null before they came."""

    id: str
    state: JobState
    model: str
    position: int | None = Field(description="How many jobs are drawn before it; null of one that does not wait.")
    step: int = Field(description="Model calls done.")
    steps: int = Field(description="Of how many; 0 before it is known.")
    created: float
    started: float | None
    ended: float | None
    interrupted: bool = Field(False, description="Whether it was ended before its last step.")
    error: ErrorDetail | None = Field(None, description="Why there are no pictures.")
    pictures: list[PictureBody] = []


class JobList(BaseModel):
    """Jobs, the oldest first."""

    jobs: list[JobBody]


def body_from_job(service: Service, job: Job, *, settings: bool = False) -> JobBody:
    """A job as JSON has it.

    Args:
        service: that the job is of.
        job: it.
        settings: whether those of the pictures are told.
    """
    state, result = job.state, job.result
    error = None
    if state.final and result is None:
        error = ErrorDetail(**refusal_of(job).openai_form["error"])
    pictures = [
        PictureBody(
            url=f"v1/jobs/{job.id}/pictures/{index}",
            width=metadata.width,
            height=metadata.height,
            seed=metadata.seed,
            settings=metadata.parameters() if settings else None,
        )
        for index, metadata in enumerate(() if result is None else result.metadata)
    ]
    return JobBody(
        id=job.id,
        state=state,
        model=job.model,
        position=(service.position(job) or 0) if state is JobState.QUEUED else None,
        step=job.step,
        steps=job.steps,
        created=job.created,
        started=job.started,
        ended=job.ended,
        interrupted=result is not None and result.interrupted,
        error=error,
        pictures=pictures,
    )
