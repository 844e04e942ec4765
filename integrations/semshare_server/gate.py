"""The gate before every route: who calls, how large the body may be, and what is counted."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Collection
from typing import Any

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from semshare_server.errors import APIError
from semshare_server.keys import Keyring

OPEN = frozenset({"/health"})
LOCAL_HOSTS = frozenset(
    # This machine, and what containers on it call it: names that no other site can point anywhere.
    {"localhost", "127.0.0.1", "[::1]", "host.docker.internal", "gateway.docker.internal", "host.containers.internal"}
)
HEADERS = (
    (b"content-security-policy", b"default-src 'self'; img-src 'self' data:; frame-ancestors 'none'"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
)

FIELD = re.compile(r"[\w.-]+", re.ASCII)
SHOWN_FIELDS, SHOWN_LETTERS = 20, 100


def key_of(headers: Headers) -> str | None:
    """The key of a bearer header, the password of a basic one, which browsers ask for by themselves, or `x-api-key`."""
    kind, _, value = headers.get("authorization", "").partition(" ")
    if kind.lower() == "bearer":
        return value.strip()
    if kind.lower() == "basic":
        try:
            return base64.b64decode(value, validate=True).decode().partition(":")[2]
        except (binascii.Error, UnicodeDecodeError):
            return None
    return headers.get("x-api-key", "").strip() or None


class Gate:
    """ASGI middleware; the tenant it found is `request.state.tenant`.

    Args:
        app: What is behind it.
        keyring: Who may call; without keys all are `tenant`, from this machine alone.
        tenant: Of callers without keys.
        body_bytes: Largest body.
        hosts: Further names of this machine by which it may be asked without keys; `*` for any.
        count: Told of each response: route and status.
    """

    def __init__(
        self,
        app: ASGIApp,
        keyring: Keyring,
        tenant: str,
        body_bytes: int,
        count: Callable[[str, int], Any],
        hosts: Collection[str] = (),
    ):
        self._app = app
        self._hosts = LOCAL_HOSTS | set(hosts)
        self._keyring = keyring
        self._tenant = tenant
        self._body_bytes = body_bytes
        self._count = count

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse a request, or hand it on with its tenant."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                ignored = _header(scope.get("state", {}).get("ignored", ()))
                message["headers"] = [*message.get("headers", ()), *HEADERS, *ignored]
                # Unknown paths are anybody's words: they may not become label values.
                self._count(getattr(scope.get("route"), "path", "other"), message["status"])
            await send(message)

        headers = Headers(scope=scope)
        refusal = self._refusal(scope, headers)
        if refusal is not None:
            await refusal.response(scope["path"])(scope, receive, sent)
            return
        await self._app(scope, self._limited(receive), sent)

    def _refusal(self, scope: Scope, headers: Headers) -> APIError | None:
        state = scope.setdefault("state", {})
        if not self._keyring:
            state["tenant"] = self._tenant
            host = headers.get("host", "")
            name = host.rpartition(":")[0] if not host.endswith("]") and ":" in host else host
            if name not in self._hosts and "*" not in self._hosts:
                # A page of another site may have pointed its own name at this machine.
                known = "without API keys only http://127.0.0.1 and http://localhost are served"
                return APIError(403, f"{known}, not {name[:200]}: name it in SEMSHARE_SERVER_HOSTS, or make keys")
        elif scope["path"] not in OPEN:
            key = key_of(headers)
            tenant = None if key is None else self._keyring.tenant(key)
            if tenant is None:
                message = (
                    "give an API key: `Authorization: Bearer KEY` or `x-api-key: KEY`"
                    if key is None
                    else "the API key is unknown"
                )
                page = not scope["path"].startswith("/v1")
                asked = {"WWW-Authenticate": 'Basic realm="semshare: the key is the password"' if page else "Bearer"}
                return APIError(401, message, "invalid_api_key", headers=asked)
            state["tenant"] = tenant
        size = headers.get("content-length", "0")
        return self._too_large() if size.isdigit() and int(size) > self._body_bytes else None

    def _too_large(self) -> APIError:
        return APIError(413, f"the body is larger than {self._body_bytes:,} bytes", "body_too_large")

    def _limited(self, receive: Receive) -> Receive:
        seen = 0

        async def received() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self._body_bytes:
                # Only this exception leaves the body's parser as it is.
                raise HTTPException(413, self._too_large().message)
            return message

        return received


def _header(ignored: Collection[str]) -> list[tuple[bytes, bytes]]:
    """The header that names fields which were ignored."""
    names = [name[:SHOWN_LETTERS] for name in ignored if FIELD.fullmatch(name)][:SHOWN_FIELDS]
    return [(b"x-semshare-ignored", ", ".join(names).encode())] if names else []
