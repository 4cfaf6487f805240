"""Progress, interruption and settings."""

from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel

from latentrt.runtime.serving.http.a1111.current import current
from latentrt.runtime.serving.http.errors import A1111_RESPONSES
from latentrt.runtime.serving.http.strict import StrictRoute
from latentrt.runtime.serving.jobs.models import Models

router = APIRouter(prefix="/sdapi/v1", route_class=StrictRoute, responses=A1111_RESPONSES)


class ProgressState(BaseModel):
    """What the server does."""

    skipped: bool
    interrupted: bool
    stopping_generation: bool
    job: str
    job_count: int
    job_timestamp: str
    job_no: int
    sampling_step: int
    sampling_steps: int


class Progress(BaseModel):
    """How far the oldest job of this API is; all zeros while there is none."""

    progress: float
    eta_relative: float
    state: ProgressState
    current_image: str | None
    textinfo: str | None


@router.get("/progress", summary="How far the job is")
async def progress(request: Request, skip_current_image: bool = False) -> Progress:
    """The oldest job that was asked for through this API, with a small picture of it as it is now."""
    state = current(request)
    told = state.progress()
    return Progress(**told | {"current_image": None if skip_current_image else state.picture()})


@router.post("/interrupt", summary="End the job with what there is")
async def interrupt(request: Request) -> dict[str, Any]:
    """The job that ``/progress`` tells of ends at its next step; its request is answered with the picture so far."""
    current(request).interrupt()
    return {}


@router.post("/skip", summary="The same as interrupt")
async def skip(request: Request) -> dict[str, Any]:
    """A job is all the pictures of a request, so there is no next one to go on with."""
    current(request).skip()
    return {}


@router.get("/options", summary="Settings")
async def options(request: Request) -> dict[str, Any]:
    """The model, the text encoder's layer, and what is fixed."""
    return current(request).settings.options(_models(request))


@router.post("/options", summary="Change settings")
async def set_options(request: Request, body: dict[str, Any]) -> None:
    """``sd_model_checkpoint`` chooses the model of this API's later requests."""
    state = current(request)
    state.settings = state.settings.changed(body, _models(request))


def _models(request: Request) -> Models:
    models: Models = request.app.state.service.models
    return models
