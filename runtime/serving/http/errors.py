"""Errors as the clients of each API know them: A1111's form below ``/sdapi``, OpenAI's everywhere else."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import ceil
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse

from latentrt.engines.errors import LatentrtError, NotFiniteError, RequestError
from latentrt.runtime.serving.http.invalid import message_from_validation
from latentrt.runtime.serving.jobs.errors import CostError, DrainingError, QueueFullError
from latentrt.runtime.serving.jobs.log import log_fault

_LONGEST = 2000  # characters of a message
_A1111 = "/sdapi/"
_INTERNAL = "the server could not answer; its log says more"
# OpenAI's words for kinds of errors
_TYPES: Mapping[int, str] = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
_CODES: Mapping[int, str] = {
    400: "bad_request",
    401: "unauthorized",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    408: "too_slow",
    410: "gone",
    413: "too_large",
    421: "unknown_host",
    422: "invalid",
    429: "busy",
    500: "internal",
    503: "unavailable",
}


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """What a client is told in place of an answer: one sentence, a word for programs, and the field it is about."""

    status: int
    message: str
    code: str | None = None
    param: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def openai_form(self) -> dict[str, Any]:
        """As OpenAI's clients read it."""
        kind = "server_error" if self.status >= 500 else _TYPES.get(self.status, "invalid_request_error")
        code = self.code or _CODES.get(self.status)
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": code}}

    @property
    def a1111_form(self) -> dict[str, Any]:
        """As A1111's clients read it."""
        code = self.code or _CODES.get(self.status)
        return {"error": code, "detail": self.message, "body": "", "errors": self.message}


class RefusedError(HTTPException):
    """A request that is not served; raised from anywhere below the routes."""

    def __init__(self, refusal: Refusal) -> None:
        """Takes what the client is told."""
        super().__init__(refusal.status, refusal.message, dict(refusal.headers))
        self.refusal = refusal


class ErrorDetail(BaseModel):
    """What is wrong, in OpenAI's fields."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    """An error as OpenAI's clients read it."""

    error: ErrorDetail


class A1111ErrorBody(BaseModel):
    """An error as A1111's clients read it."""

    error: str | None
    detail: str
    body: str
    errors: str


_DESCRIPTIONS: Mapping[int, str] = {
    400: "The body is no JSON.",
    401: "No token, or a wrong one.",
    403: "A web page of another origin asked.",
    404: "Nothing has that name.",
    405: "Another method is meant.",
    408: "The body arrived too slowly.",
    413: "The body is too large.",
    421: "The server is not known by that name.",
    422: "Something in the request cannot be served.",
    429: "Too much waits already; Retry-After says for how long.",
    500: "A fault of the server; its log says more.",
    503: "The server is about to stop.",
}
RESPONSES: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorBody, "description": text} for status, text in _DESCRIPTIONS.items()
}
"""The errors that every route may answer with, for the OpenAPI document."""
A1111_RESPONSES: dict[int | str, dict[str, Any]] = {
    status: {"model": A1111ErrorBody, "description": text} for status, text in _DESCRIPTIONS.items()
}
"""The same of routes below ``/sdapi``."""


def answer_to(path: str, refusal: Refusal) -> JSONResponse:
    """A refusal in the form of the API that the path belongs to."""
    refusal = replace(refusal, message=_shortened(refusal.message))
    form = refusal.a1111_form if path.startswith(_A1111) else refusal.openai_form
    return JSONResponse(form, refusal.status, dict(refusal.headers))


def _shortened(message: str) -> str:
    """A message may quote what a client sent, at any length."""
    return message if len(message) <= _LONGEST else f"{message[:_LONGEST]}…"


def refusal_from(error: Exception) -> Refusal:
    """What a client is told of an error. Of those that no user can mend it learns nothing but that they are logged."""
    match error:
        case RefusedError():
            return error.refusal
        case QueueFullError():
            return Refusal(status=429, message=str(error), code="queue_full", headers=retry_after(error.retry_after))
        case CostError():
            return Refusal(status=422, message=str(error), code="too_costly")
        case DrainingError():
            return Refusal(status=503, message=str(error), code="draining", headers=retry_after(_RESTART))
        case RequestError() | NotFiniteError():  # asked for again, it would end in the same way
            return Refusal(status=422, message=str(error))
        case RequestValidationError():
            status, message, param = message_from_validation(error)
            return Refusal(status=status, message=message, param=param)
        case HTTPException():
            return Refusal(status=error.status_code, message=_sentence(error), headers=dict(error.headers or {}))
    return Refusal(status=500, message=_INTERNAL)


_RESTART = 5.0  # seconds in which another server may have taken this one's place


def retry_after(seconds: float) -> dict[str, str]:
    """The header that says when to come again; whole seconds, at least one."""
    return {"Retry-After": str(max(1, ceil(seconds)))}


def _sentence(error: HTTPException) -> str:
    """What the framework's own errors say here."""
    known = {
        400: "got a body that cannot be read, expected what its Content-Type says; correct it",
        404: "got a path that nothing is at; see /openapi.json for those that are",
        405: "got a method that this path does not have; see /openapi.json for those it has",
    }
    return known.get(error.status_code, str(error.detail))


def add_error_answers(app: FastAPI) -> None:
    """Every error that reaches the application becomes one sentence."""

    async def answer(request: Request, error: Exception) -> JSONResponse:
        refusal = refusal_from(error)
        reason = error.__cause__ if isinstance(error, RefusedError) else error  # which an API may have worded anew
        if isinstance(reason, CostError | QueueFullError | DrainingError):
            app.state.metrics.refused.labels(refusal.code).inc()
        elif refusal.status == 500:
            log_fault(error, f"{request.method} {getattr(request.scope.get('route'), 'path', '')}")
        return answer_to(request.url.path, refusal)

    for kind in (RequestValidationError, HTTPException, LatentrtError):
        app.add_exception_handler(kind, answer)
