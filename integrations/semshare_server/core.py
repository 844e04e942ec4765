"""What every route that answers goes through: one way from messages to an answer, whole or streamed.

A route translates: its body into messages and options of the adapter, and the answer into its API's form (`Form`).
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any

from fastapi import Request
from sse_starlette import ServerSentEvent
from starlette.responses import Response

from semshare_agents.llm import SemShareLLM
from semshare_agents.settings import ServerSettings
from semshare_agents.timing.clock import Clock
from semshare_agents.values import Generation, Piece
from semshare_server import schemas
from semshare_server.answering import Answering, AnswerStream, ClientGoneError, Event, client_closed
from semshare_server.errors import APIError
from semshare_server.limits import Admission, Traffic

_STREAM = {"schema": {"type": "object", "properties": {"data": {"type": "string"}}, "required": ["data"]}}
ANSWERED: dict[int | str, dict[str, Any]] = {
    200: {
        "content": {"text/event-stream": _STREAM},
        "description": "The answer, or its events where `stream` is true.",
    }
}
"""What the OpenAPI document says of a route that answers."""


class Form:
    """How one API's answer looks. One form is of one answer."""

    async def ended(self, generation: Generation) -> None:
        """The answer is complete and its turn stored; nobody was told of its end yet."""

    def whole(self, generation: Generation) -> dict[str, Any]:
        """The complete answer."""
        raise NotImplementedError

    def events(self, pieces: AsyncIterator[Piece]) -> AsyncIterator[Event]:
        """The events of the streamed answer."""
        raise NotImplementedError

    def failed(self, error: APIError) -> Event:
        """The event that ends a stream that fails."""
        return json.dumps(error.body())

    def ping(self) -> ServerSentEvent:
        """What is sent while nothing is to be said."""
        return ServerSentEvent(comment="ping")


def reuse_options(own: schemas.ReuseOptions | None, store: bool | None = None) -> dict[str, Any]:
    """Options of the adapter from the field `semshare`, and from an API's own `store`."""
    own = own or schemas.ReuseOptions()
    # Whoever says it in one place must not find it undone by the other.
    kept = False not in (own.store, store)
    return {"session": own.session, "reuse": own.reuse, "fidelity": own.fidelity, "store": kept}


class Core:
    """Answers over one adapter.

    Args:
        llm: The adapter.
        settings: Of the server.
        admission: Who lets requests in.
        traffic: Counts.
        model: The name under which the model is served.
    """

    def __init__(self, llm: SemShareLLM, settings: ServerSettings, admission: Admission, traffic: Traffic, model: str):
        self.llm = llm
        self.model = model
        self._settings = settings
        self._admission = admission
        self._traffic = traffic

    def check_model(self, name: str) -> None:
        """Raise an `APIError` unless a name is that of the model."""
        if name != self.model:
            message = f"there is no such model here; this server has {self.model!r}"
            raise APIError(404, message, "model_not_found", "model")

    async def answer(
        self, request: Request, form: Form, messages: list[dict[str, Any]], options: dict[str, Any], stream: bool
    ) -> Response | dict[str, Any]:
        """Answer messages in a form, for the caller's tenant.

        Args:
            request: Of the client, who may go away meanwhile.
            form: How the answer looks.
            messages: In OpenAI's form.
            options: Of `SemShareLLM.generate`.
            stream: Whether the answer is sent as it is made.

        Raises:
            APIError: the queue is full.
            SemShareError: the messages cannot be answered.
        """
        options = {**options, "tenant": request.state.tenant}
        answering = Answering(self._admission, lambda clock: self._pieces(form, messages, clock, options))
        try:
            if not stream:
                try:
                    return form.whole(await answering.whole(request))
                finally:
                    await answering.aclose()
            await answering.first(request, self._settings.ping_seconds)
        except ClientGoneError:
            await answering.aclose()
            self._traffic.cancelled.inc()
            return client_closed()
        except BaseException:
            await answering.aclose()
            raise
        return AnswerStream(
            answering,
            form.events(aiter(answering)),
            self._settings.ping_seconds,
            self._settings.shutdown_seconds,
            self._traffic.cancelled.inc,
            failed=form.failed,
            ping=form.ping,
        )

    async def _pieces(
        self, form: Form, messages: list[dict[str, Any]], clock: Clock, options: dict[str, Any]
    ) -> AsyncGenerator[Piece]:
        async with aclosing(self.llm.stream(messages, clock=clock, **options)) as pieces:
            async for piece in pieces:
                if piece.generation is not None:
                    await form.ended(piece.generation)
                yield piece
