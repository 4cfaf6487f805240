"""Whether the server runs, and whether it should be sent requests."""

from typing import Literal

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel

from latentrt.runtime.serving.jobs.service import Service

router = APIRouter(tags=["health"])


class Health(BaseModel):
    """How the server is."""

    status: Literal["live", "ready", "warming", "draining"]


@router.get("/health/live", summary="Whether the process answers")
async def live() -> Health:
    """Always yes."""
    return Health(status="live")


@router.get(
    "/health/ready",
    summary="Whether models are open and warm, and orders are taken on",
    responses={503: {"model": Health, "description": "Not yet, or no more."}},
)
async def ready(request: Request, response: Response) -> Health:
    """503 while models are opened and warmed, and while the server ends."""
    service: Service = request.app.state.service
    if service.draining:
        response.status_code = 503
        return Health(status="draining")
    if not getattr(request.app.state, "warm", True):
        response.status_code = 503
        return Health(status="warming")
    return Health(status="ready")
