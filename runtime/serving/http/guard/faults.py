"""Faults of ours: the client is told nothing of them, the log their kind and place."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from latentrt.runtime.serving.http.errors import answer_to, refusal_from
from latentrt.runtime.serving.jobs.log import log_fault


class Faults:
    """Answers in the API's form where an application raises; its message, which may quote a prompt, is not kept."""

    def __init__(self, app: ASGIApp) -> None:
        """Takes what is guarded."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on."""
        started = False

        async def watched(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except Exception as error:
            log_fault(error, f"{scope.get('method', scope['type'])} {_route(scope)}")
            if scope["type"] != "http" or started:
                return  # uvicorn closes a connection whose answer is not whole
            await answer_to(scope["path"], refusal_from(error))(scope, receive, send)


def _route(scope: Scope) -> str:
    """The route's template: a path may hold what a client wrote."""
    return str(getattr(scope.get("route"), "path", "(no route)"))
