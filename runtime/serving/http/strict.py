"""Routes that read JSON strictly: no NaN, no endless nesting, no halves of characters."""

from collections.abc import Callable, Coroutine
from json import JSONDecodeError
from typing import Any

from fastapi.routing import APIRoute
from pydantic_core import from_json
from starlette.requests import Request
from starlette.responses import Response


class StrictRequest(Request):
    """A request whose JSON is what JSON allows. Python's own reader takes NaN, and lone surrogates."""

    async def json(self) -> Any:
        """The body.

        Raises:
            JSONDecodeError: it is no JSON, or nested deeper than anybody needs.
        """
        if not hasattr(self, "_json"):
            body = await self.body()
            try:
                self._json = from_json(body, allow_inf_nan=False)
            except ValueError as error:
                raise JSONDecodeError(str(error), "", 0) from None
        return self._json


class StrictRoute(APIRoute):
    """Give it to a router: ``APIRouter(route_class=StrictRoute)``."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """What answers a request."""
        handler = super().get_route_handler()

        async def strict(request: Request) -> Response:
            return await handler(StrictRequest(request.scope, request.receive))

        return strict
