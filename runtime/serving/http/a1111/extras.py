"""A1111's extras: pictures enlarged one after the other, beside the queue."""

from collections.abc import Sequence
from threading import Event

from anyio import CapacityLimiter
from anyio.to_thread import run_sync
from fastapi import APIRouter, Request
from pydantic import BaseModel

from latentrt.runtime.serving.http.a1111.bodies import ExtraBatchBody, ExtrasBody, ExtraSingleBody
from latentrt.runtime.serving.http.a1111.enlarging import Enlarging
from latentrt.runtime.serving.http.errors import A1111_RESPONSES, Refusal, RefusedError
from latentrt.runtime.serving.http.pictures import picture_from_text, text_from_picture
from latentrt.runtime.serving.http.strict import StrictRoute
from latentrt.runtime.serving.http.waiting import disconnect_of
from latentrt.runtime.serving.jobs.errors import CostError, DrainingError, QueueFullError
from latentrt.runtime.serving.jobs.service import Service

router = APIRouter(prefix="/sdapi/v1", route_class=StrictRoute, responses=A1111_RESPONSES)
_WAITING = 8  # requests that may wait for their turn
_LATER = 5.0  # seconds after which there may be room


class ExtraSingle(BaseModel):
    """A picture, as a PNG in base64."""

    html_info: str
    image: str


class ExtraBatch(BaseModel):
    """Pictures, as PNGs in base64, in the order of the request."""

    html_info: str
    images: list[str]


@router.post("/extra-single-image", summary="Enlarge a picture")
async def extra_single_image(request: Request, body: ExtraSingleBody) -> ExtraSingle:
    """By a filter, or by an upscaler of the server."""
    (image,) = await _enlarged(request, body, [body.image])
    return ExtraSingle(html_info="", image=image)


@router.post("/extra-batch-images", summary="Enlarge pictures")
async def extra_batch_images(request: Request, body: ExtraBatchBody) -> ExtraBatch:
    """The same of several pictures."""
    return ExtraBatch(html_info="", images=await _enlarged(request, body, [one.data for one in body.pictures]))


class _Turns:
    """One request at a time, and not too many that wait; used by the loop alone."""

    def __init__(self, service: Service) -> None:
        self.enlarging = Enlarging(service.models.catalog)
        self.limiter = CapacityLimiter(1)
        self.waiting = 0


async def _enlarged(request: Request, body: ExtrasBody, texts: Sequence[str]) -> list[str]:
    """The pictures of a request as texts, enlarged; a client that disconnects ends it at the next tile."""
    service: Service = request.app.state.service
    limits, turns = request.app.state.settings.pictures, _turns(request)
    if service.draining:
        raise DrainingError("the server is shutting down and takes nothing on; ask again in a minute")
    if turns.waiting >= _WAITING:
        raise QueueFullError(f"{turns.waiting} requests wait for an upscaler, which is as many as may", _LATER)
    if len(texts) > service.limits.pictures:
        raise CostError(f"got {len(texts)} pictures, expected at most {service.limits.pictures}; send fewer")
    turns.enlarging.check(body)
    gone = Event()

    def tell(done: int, total: int) -> None:
        if gone.is_set():
            raise RefusedError(Refusal(status=410, message="the client has gone", code="disconnected"))

    def enlarge() -> list[str]:
        results = []
        for text in texts:
            tell(0, 1)
            image = picture_from_text(text, limits)
            results.append(text_from_picture(turns.enlarging.enlarged(body, image, service.limits.pixels, tell)))
        return results

    turns.waiting += 1
    try:
        async with disconnect_of(request) as disconnected:
            disconnected.add_done_callback(lambda _: gone.set())
            return await run_sync(enlarge, limiter=turns.limiter)
    finally:
        turns.waiting -= 1


def _turns(request: Request) -> _Turns:
    state = request.app.state
    if not hasattr(state, "a1111_extras"):
        state.a1111_extras = _Turns(state.service)
    found: _Turns = state.a1111_extras
    return found
