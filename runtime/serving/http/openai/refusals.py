"""Refusals in OpenAI's numbers: what is wrong with a request has status 400; what would fail again is not repeated."""

from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any

from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from latentrt.engines.errors import LatentrtError
from latentrt.runtime.serving.http.errors import Refusal, RefusedError, refusal_from
from latentrt.runtime.serving.http.strict import StrictRoute
from latentrt.runtime.serving.jobs.errors import UnknownNameError

_ONCE = {"X-Should-Retry": "false"}  # which OpenAI's clients heed


def openai_refusal(error: Exception) -> Refusal:
    """What a client is told of an error."""
    refusal = refusal_from(error)
    if isinstance(error, UnknownNameError) and error.what == "model":
        return replace(refusal, status=404, code="model_not_found", param="model")
    return in_openai_numbers(refusal)


def in_openai_numbers(refusal: Refusal) -> Refusal:
    """A refusal with the status by which OpenAI's clients know what to do."""
    if refusal.status == 422:
        param = None if refusal.param is None else refusal.param.partition(".")[0]
        return replace(refusal, status=400, code=refusal.code or "invalid", param=param)
    if refusal.status == 500:
        return replace(refusal, headers={**refusal.headers, **_ONCE})
    return refusal


class OpenAIRoute(StrictRoute):
    """A route below which errors become OpenAI's."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """What answers a request."""
        handler = super().get_route_handler()

        async def translated(request: Request) -> Response:
            try:
                return await handler(request)
            except (LatentrtError, RequestValidationError, HTTPException) as error:
                raise RefusedError(openai_refusal(error)) from error

        return translated
