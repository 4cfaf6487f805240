"""Routes that are about what one replica knows: they are refused where another may answer."""

from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from latentrt.runtime.serving.http.errors import Refusal, answer_to
from latentrt.runtime.serving.ray.replicas import Routing

_STATEFUL = ("/v1/jobs", "/sdapi/v1/interrupt", "/sdapi/v1/skip")
_PAGE = "/"
_SETS = "/sdapi/v1/options"  # the model that later requests are drawn with
_SESSION = "x-session-id"


class OneReplica:
    """Refuses requests about jobs by their ids, and for what is running, which only the replica that runs it knows."""

    def __init__(self, app: ASGIApp, routing: Routing) -> None:
        """Takes the application, and how requests find a replica."""
        self._app, self._routing = app, routing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on, or refuses it."""
        if scope["type"] != "http" or not _is_stateful(scope["method"], scope["path"]) or self._has_session(scope):
            await self._app(scope, receive, send)
            return
        if self._routing is Routing.SESSIONS:
            what = "send X-Session-Id, the same with all requests about one job"
        else:
            what = "use /v1/images/generations or /sdapi/v1/txt2img, which answer at once, or routing=sessions"
        message = f"got a request about one replica's jobs where several answer; {what}"
        await answer_to(scope["path"], Refusal(status=409, code="several_replicas", message=message))(
            scope, receive, send
        )

    def _has_session(self, scope: Scope) -> bool:
        return self._routing is Routing.SESSIONS and bool(Headers(scope=scope).get(_SESSION))


def _is_stateful(method: str, path: str, prefixes: Sequence[str] = _STATEFUL) -> bool:
    return path == _PAGE or (method == "POST" and path == _SETS) or path.startswith(tuple(prefixes))
