#!/usr/bin/env bash
# fastapi 0.165.0 with starlette 1.10.0: an exception that a middleware raises while the body is received never reaches
# an exception handler: the client is told 400 "There was an error parsing the body".
#
# Seen: a middleware that refuses a body as too large from within `receive` raises its own TooLarge, which has a handler of
# its own with status 413. The handler is not called, the answer is 400. With starlette's HTTPException(413) it is 413:
# the route lets only that class through and takes everything else for a malformed body. In Starlette alone the handler is
# called.
#
# What this product does: the gate raises HTTPException for bodies that grow past the limit (integrations/semshare_server/gate.py).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
export TMPDIR="$folder"
# FINDINGS_VENV names a folder in which a venv with just these pins is made once and kept.
venv="${FINDINGS_VENV:-$folder/venv}"
if [ ! -x "$venv/bin/python" ]; then
  python3 -m venv "$venv"
  "$venv/bin/pip" install --quiet fastapi==0.165.0 starlette==1.10.0
fi
"$venv/bin/python" -W ignore - <<'PYTHON'
import asyncio
import sys

from fastapi import Body, FastAPI
from fastapi.responses import PlainTextResponse
from starlette.exceptions import HTTPException


class TooLarge(Exception):
    pass


class Limit:
    def __init__(self, app, error):
        self.app, self.error = app, error

    async def __call__(self, scope, receive, send):
        async def limited():
            await receive()
            raise self.error

        await self.app(scope, limited, send)


def status_of(error):
    app = FastAPI()
    called = []

    @app.exception_handler(TooLarge)
    async def too_large(request, raised):
        called.append(raised)
        return PlainTextResponse("too large", 413)

    @app.post("/")
    async def route(body: dict = Body()):
        return body

    answered = []

    async def receive():
        return {"type": "http.request", "body": b"{}", "more_body": False}

    async def send(message):
        answered.append(message)

    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "scheme": "http",
        "path": "/", "raw_path": b"/", "query_string": b"", "root_path": "",
        "headers": [(b"content-type", b"application/json"), (b"host", b"x")],
        "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80),
    }
    app.add_middleware(Limit, error=error)
    asyncio.run(app(scope, receive, send))
    return answered[0]["status"], bool(called)


own, http = status_of(TooLarge()), status_of(HTTPException(413))
print(f"its own exception: status {own[0]}, handler called {own[1]}; HTTPException(413): status {http[0]}")
sys.exit(0 if own == (400, False) and http[0] == 413 else 1)
PYTHON
