"""Bodies as JSON values, refused where they are nested so deeply that whoever walks them would fail."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import HTTPException, Request
from fastapi.routing import APIRoute
from starlette.responses import Response

from semshare_agents.tools.depth import MOST_NESTED, too_deep

DEEP = f"the body is nested deeper than {MOST_NESTED} levels: flatten it"


class BoundedRequest(Request):
    """A request whose body is not deep."""

    async def json(self) -> Any:
        """The body.

        Raises:
            HTTPException: it is too deep.
            json.JSONDecodeError: it is no JSON.
        """
        try:
            value = await super().json()
        except RecursionError:
            raise HTTPException(400, DEEP) from None
        if too_deep(value):
            raise HTTPException(400, DEEP)
        return value


class BoundedRoute(APIRoute):
    """A route with such requests."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """See the base class."""
        handler = super().get_route_handler()

        async def bounded(request: Request) -> Response:
            return await handler(BoundedRequest(request.scope, request.receive))

        return bounded
