"""What stands before the gate: HEAD as a GET without a body, and pages of other origins."""

from __future__ import annotations

from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOCAL = "local"
LOCAL_ORIGINS = r"https?://(localhost|127\.0\.0\.1|\[::1\])(:\d+)?"


class HeadAsGet:
    """ASGI middleware that answers HEAD with what GET would, less the body.

    Args:
        app: What is behind it.
    """

    def __init__(self, app: ASGIApp):
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand a request on."""
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return

        async def bare(message: Message) -> None:
            await send({**message, "body": b""} if message["type"] == "http.response.body" else message)

        await self._app({**scope, "method": "GET"}, receive, bare)


def cors(origins: tuple[str, ...]) -> dict[str, Any]:
    """Arguments of Starlette's CORS middleware: pages of these origins may call, with any header.

    Args:
        origins: Origins; `local` for all of this machine, `*` for all.
    """
    named = [origin for origin in origins if origin != LOCAL]
    return {
        "allow_origins": named,
        "allow_origin_regex": LOCAL_ORIGINS if LOCAL in origins else None,
        "allow_methods": ["*"],
        "allow_headers": ["*"],
        "expose_headers": ["x-semshare-ignored", "retry-after"],
    }
