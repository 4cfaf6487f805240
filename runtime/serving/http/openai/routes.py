"""OpenAI's images API: generations, edits, variations and models."""

from functools import partial
from typing import Any, Literal

from fastapi import APIRouter
from PIL.Image import Image
from starlette.requests import Request
from starlette.responses import Response

from latentrt.runtime.serving.http.openai.answer import ImagesAnswer, images_answer, packing_from_fields
from latentrt.runtime.serving.http.openai.bodies import (
    Form,
    fields_from,
    form_body,
    form_document,
    json_body,
    json_document,
)
from latentrt.runtime.serving.http.openai.fields import (
    EditRequest,
    GenerationRequest,
    ImageFields,
    StreamFields,
    VariationRequest,
)
from latentrt.runtime.serving.http.openai.mask import mask_from_transparency, own_transparency
from latentrt.runtime.serving.http.openai.models import Model, ModelList, all_models, model_named
from latentrt.runtime.serving.http.openai.order import drawn_size, order_from_fields
from latentrt.runtime.serving.http.openai.refusals import OpenAIRoute
from latentrt.runtime.serving.http.openai.stream import PictureStream
from latentrt.runtime.serving.http.pictures import picture_from_bytes, picture_from_text
from latentrt.runtime.serving.http.settings import PictureLimits
from latentrt.runtime.serving.http.streams import EventStream
from latentrt.runtime.serving.http.taking import DeadlineSeconds, IdempotencyKey, job_of
from latentrt.runtime.serving.http.waiting import in_thread, result_of
from latentrt.runtime.serving.jobs.order import Order

router = APIRouter(prefix="/v1", route_class=OpenAIRoute, tags=["openai"])
_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {
        "model": ImagesAnswer,
        "description": "The pictures; with stream, events of partial and of finished ones.",
        "content": {"text/event-stream": {"schema": {"type": "string"}}},
    }
}


@router.post(
    "/images/generations",
    summary="Draws pictures from text",
    responses=_ANSWERS,
    openapi_extra=json_document(GenerationRequest),
)
async def generations(
    request: Request, idempotency_key: IdempotencyKey = None, deadline_seconds: DeadlineSeconds = None
) -> Response:
    """Takes OpenAI's fields, and the pipeline's beside them."""
    fields = fields_from(GenerationRequest, await json_body(request))
    return await _drawn(request, fields, "image_generation")


@router.post(
    "/images/edits",
    summary="Redraws a picture, or a part of it",
    responses=_ANSWERS,
    openapi_extra=form_document(EditRequest, masked=True),
)
async def edits(
    request: Request, idempotency_key: IdempotencyKey = None, deadline_seconds: DeadlineSeconds = None
) -> Response:
    """What is transparent in the mask, or else in the picture, is redrawn; without either all of it, by strength."""
    form = await form_body(request)
    return await _drawn(request, fields_from(EditRequest, form.values), "image_edit", form)


@router.post(
    "/images/variations",
    summary="Redraws a picture without a prompt",
    responses={200: {"model": ImagesAnswer, "description": "The pictures."}},
    openapi_extra=form_document(VariationRequest, masked=False),
)
async def variations(
    request: Request, idempotency_key: IdempotencyKey = None, deadline_seconds: DeadlineSeconds = None
) -> Response:
    """As an edit without a mask and with an empty prompt."""
    form = await form_body(request)
    return await _drawn(request, fields_from(VariationRequest, form.values), None, form)


@router.get("/models", summary="The models of this server")
async def models(request: Request) -> ModelList:
    """The first one is drawn with where none is named."""
    return all_models(request.app.state.service.models)


@router.get("/models/{model:path}", summary="A model of this server")
async def model(request: Request, model: str) -> Model:
    """By its name."""
    return model_named(request.app.state.service.models, model)


async def _drawn(
    request: Request,
    fields: ImageFields,
    kind: Literal["image_generation", "image_edit"] | None,
    form: Form | None = None,
) -> Response:
    """The pictures of a request, all at once or as events of a kind."""
    packing = packing_from_fields(fields)
    body = await request.body() if form is None else form.digest
    job = await job_of(request, partial(in_thread, request, _order, request, fields, form), body)
    if kind is not None and isinstance(fields, StreamFields) and fields.stream:
        stream = PictureStream(
            request=request,
            job=job,
            kind=kind,
            packing=packing,
            partial_images=fields.partial_images or 0,
            size=drawn_size(job.order),
            keep_alive=request.app.state.settings.keep_alive,
        )
        return EventStream(await stream.begun())
    answer = await in_thread(request, images_answer, await result_of(request, job), packing)
    return Response(answer, media_type="application/json")


def _order(request: Request, fields: ImageFields, form: Form | None) -> Order:
    """Decodes the pictures of a request."""
    limits: PictureLimits = request.app.state.settings.pictures
    image: Image | None = None
    mask: Image | None = None
    if form is not None:
        image = picture_from_bytes(form.files["image"], limits, "image")
        if "mask" in form.files:
            mask = mask_from_transparency(picture_from_bytes(form.files["mask"], limits, "mask"), image)
        elif isinstance(fields, StreamFields):
            mask = own_transparency(image)
    read = partial(picture_from_text, limits=limits)
    return order_from_fields(fields, request.app.state.service, read, image=image, mask_image=mask)
