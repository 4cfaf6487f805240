"""txt2img and img2img."""

from fastapi import APIRouter, Request
from PIL.Image import Image
from starlette.responses import JSONResponse

from latentrt.runtime.serving.http.a1111.answers import DrawingAnswer, drawing_answer
from latentrt.runtime.serving.http.a1111.bodies import DrawingBody, Img2ImgBody, Txt2ImgBody
from latentrt.runtime.serving.http.a1111.current import Current, current
from latentrt.runtime.serving.http.a1111.ordering.orders import order_from_body
from latentrt.runtime.serving.http.a1111.ordering.samplers import SAMPLER
from latentrt.runtime.serving.http.errors import A1111_RESPONSES, Refusal, RefusedError
from latentrt.runtime.serving.http.pictures import picture_from_text
from latentrt.runtime.serving.http.strict import StrictRoute
from latentrt.runtime.serving.http.taking import DeadlineSeconds, IdempotencyKey, job_of
from latentrt.runtime.serving.http.waiting import in_thread, result_of
from latentrt.runtime.serving.jobs.errors import UnknownNameError
from latentrt.runtime.serving.jobs.job import Job
from latentrt.runtime.serving.jobs.order import Order
from latentrt.runtime.serving.jobs.service import Service

router = APIRouter(route_class=StrictRoute, responses=A1111_RESPONSES)


@router.post("/sdapi/v1/txt2img", summary="Draw from text", response_model=DrawingAnswer)
async def txt2img(
    request: Request,
    body: Txt2ImgBody,
    idempotency_key: IdempotencyKey = None,
    deadline_seconds: DeadlineSeconds = None,
) -> JSONResponse:
    """Pictures from a prompt, with a hires fix where it is asked for."""
    return await _drawn(request, body, "txt2img")


@router.post("/sdapi/v1/img2img", summary="Draw from a picture", response_model=DrawingAnswer)
async def img2img(
    request: Request,
    body: Img2ImgBody,
    idempotency_key: IdempotencyKey = None,
    deadline_seconds: DeadlineSeconds = None,
) -> JSONResponse:
    """Pictures that start from one; with a mask, what is white is redrawn."""
    return await _drawn(request, body, "img2img")


async def _drawn(request: Request, body: DrawingBody, route: str) -> JSONResponse:
    service: Service = request.app.state.service
    state, limits = current(request), request.app.state.settings.pictures
    settings = state.settings.changed(body.override_settings, service.models)

    def read(text: str, name: str) -> Image:
        return picture_from_text(text, limits, name)

    async def order() -> Order:
        try:
            return await in_thread(request, order_from_body, body, settings, service.models, read)
        except UnknownNameError as error:
            if error.what != SAMPLER:
                raise
            raise RefusedError(Refusal(status=404, message=str(error), code="sampler_not_found")) from error

    job = await job_of(request, order, await request.body())
    if not body.override_settings_restore_afterwards:
        state.settings = state.settings.changed(body.override_settings, service.models)
    with state.follows(job, body.force_task_id or route):
        try:
            result = await result_of(request, job)
        except RefusedError:
            if not _was_ended_early(state, job):
                raise
            result = None
    answer = await in_thread(request, drawing_answer, body, settings, service.models, job, result)
    return JSONResponse(answer.model_dump())


def _was_ended_early(state: Current, job: Job) -> bool:
    """Whether a client interrupted it before there was anything to see."""
    return job.error is None and state.was_ended(job)
