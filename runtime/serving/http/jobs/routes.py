"""Jobs over HTTP: sent, listed, followed, fetched and ended."""

from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Path, Query, Request, Response

from latentrt.runtime.call.result import Result
from latentrt.runtime.serving.http.errors import ErrorBody, Refusal, RefusedError
from latentrt.runtime.serving.http.jobs.events import events_of
from latentrt.runtime.serving.http.jobs.told import JobBody, JobList, body_from_job
from latentrt.runtime.serving.http.pictures import MEDIA_TYPES, PictureFormat, encoded, picture_from_text, pictures_of
from latentrt.runtime.serving.http.streams import EventStream
from latentrt.runtime.serving.http.strict import StrictRoute
from latentrt.runtime.serving.http.taking import DeadlineSeconds, IdempotencyKey, job_of
from latentrt.runtime.serving.http.waiting import in_thread
from latentrt.runtime.serving.jobs.job import Job
from latentrt.runtime.serving.jobs.order import Order
from latentrt.runtime.serving.jobs.order_json import JobRequest, order_from_json
from latentrt.runtime.serving.jobs.service import Service

if TYPE_CHECKING:
    from latentrt.runtime.serving.jobs.order_json import OrderFields as JobRequestBody
else:
    JobRequestBody = JobRequest

router = APIRouter(tags=["jobs"], route_class=StrictRoute)
JobId = Annotated[str, Path(description="Of a job.", max_length=64)]
_UNKNOWN: dict[int | str, dict[str, Any]] = {404: {"model": ErrorBody, "description": "No such job, or forgotten."}}


@router.post(
    "/v1/jobs",
    status_code=202,
    summary="Send an order",
    responses={202: {"description": "Taken on.", "headers": {"Location": {"schema": {"type": "string"}}}}},
)
async def submit(
    request: Request,
    body: JobRequestBody,
    response: Response,
    idempotency_key: IdempotencyKey = None,
    deadline_seconds: DeadlineSeconds = None,
) -> JobBody:
    """Takes an order on and answers at once; it is drawn when its turn comes."""
    service: Service = request.app.state.service
    limits = request.app.state.settings.pictures

    async def order() -> Order:
        return await in_thread(
            request, order_from_json, body, service.models.catalog, lambda text: picture_from_text(text, limits)
        )

    job = await job_of(request, order, await request.body())
    response.headers["Location"] = f"/v1/jobs/{job.id}"
    return body_from_job(service, job)


@router.get("/v1/jobs", summary="List the jobs that are remembered")
async def jobs(request: Request) -> JobList:
    """All jobs that wait, are drawn, or ended a short time ago; the oldest first."""
    service: Service = request.app.state.service
    return JobList(jobs=[body_from_job(service, job) for job in service.jobs])


@router.get("/v1/jobs/{job_id}", summary="A job's state", responses=_UNKNOWN)
async def job(request: Request, job_id: JobId) -> JobBody:
    """Where a job is; once it is done, where its pictures are and which settings drew them."""
    return body_from_job(request.app.state.service, _job(request, job_id), settings=True)


@router.get(
    "/v1/jobs/{job_id}/events",
    summary="Follow a job",
    response_class=Response,
    responses={
        **_UNKNOWN,
        200: {
            "description": "Server-sent events: queued, running, preview, done, failed, cancelled or expired. Data are "
            "the job, or of a preview its step, steps and images as data URLs.",
            "content": {"text/event-stream": {"schema": {"type": "string"}}},
        },
    },
)
async def events(request: Request, job_id: JobId) -> EventStream:
    """The job's states and previews as they come, until it has ended. To stop listening does not end it."""
    service, job = request.app.state.service, _job(request, job_id)
    return EventStream(events_of(request, service, job))


@router.get(
    "/v1/jobs/{job_id}/pictures/{index}",
    summary="A picture",
    response_class=Response,
    responses={
        **_UNKNOWN,
        200: {
            "description": "The picture's file, with its settings inside.",
            "content": {kind: {"schema": {"type": "string", "format": "binary"}} for kind in MEDIA_TYPES.values()},
        },
        409: {"model": ErrorBody, "description": "It is not drawn yet."},
    },
)
async def picture(
    request: Request,
    job_id: JobId,
    index: Annotated[int, Path(description="Which of the job's pictures, from 0.", ge=0, le=10_000)],
    format: Annotated[PictureFormat, Query(description="Of the file.")] = PictureFormat.PNG,
    quality: Annotated[int | None, Query(description="Of a JPEG or WebP; 95 if left out.", ge=1, le=100)] = None,
) -> Response:
    """A finished job's picture as a file, with its settings where A1111 has them."""
    job = _job(request, job_id)
    result = _result(job)
    if index >= len(result.images):
        raise _not_found(f"got picture {index} of a job that has {len(result.images)}; count from 0")
    parameters = result.metadata[index].parameters()
    data = await in_thread(request, encoded, pictures_of(result)[index], format, parameters, quality=quality)
    request.app.state.fetched.add(job)
    return Response(data, media_type=MEDIA_TYPES[format], headers={"Cache-Control": "private, max-age=600"})


@router.delete(
    "/v1/jobs/{job_id}",
    summary="Cancel or forget a job",
    responses={**_UNKNOWN, 204: {"description": "It had ended, and is forgotten."}},
)
async def delete(request: Request, job_id: JobId) -> Any:
    """A job that waits is never drawn, one that is drawn ends at its next step; one that has ended is forgotten."""
    service: Service = request.app.state.service
    job = _job(request, job_id)
    ended = job.state.final
    service.forget(job)
    return Response(status_code=204) if ended else body_from_job(service, job)


def _job(request: Request, job_id: str) -> Job:
    job: Job | None = request.app.state.service.job(job_id)
    if job is None:
        raise _not_found("got the id of no job, or of one that is forgotten by now; see /v1/jobs for those there are")
    return job


def _result(job: Job) -> Result:
    if not job.state.final:
        raise RefusedError(
            Refusal(status=409, code="not_ready", message=f"got a job that is {job.state}; wait until it is done")
        )
    if job.result is None:
        raise _not_found(f"got a job that is {job.state}, and has no pictures; send the order again")
    return job.result


def _not_found(message: str) -> RefusedError:
    return RefusedError(Refusal(status=404, message=message))
