"""What every route that answers goes through: one way from messages to an answer, whole or streamed.

A route translates: its body into messages and options of the adapter, and the answer into its API's form (`Form`).
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from typing import Any

from fastapi import Request
from sse_starlette import ServerSentEvent
from starlette.responses import Response

from semshare_agents.llm import SemShareLLM
from semshare_agents.settings import ServerSettings
from semshare_agents.timing.clock import Clock
from semshare_agents.values import Generation, Piece, Sampling
from semshare_server import schemas
from semshare_server.answering import Answering, AnswerStream, ClientGoneError, Event, client_closed
from semshare_server.errors import APIError
from semshare_server.fields import checked
from semshare_server.limits import Admission, Traffic
from semshare_server.models import Names
from semshare_server.prompts import Call, answered

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

    def whole(self, generation: Generation, *others: Generation) -> dict[str, Any]:
        """The complete answer, or several to one request."""
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


def longest(tokens: int | None) -> int | None:
    """The longest answer in the adapter's words; None for what there is room for."""
    return None if tokens == -1 else tokens


class Core:
    """Answers over one adapter.

    Args:
        llm: The adapter.
        settings: Of the server.
        admission: Who lets requests in.
        traffic: Counts.
        names: The model and its names.
    """

    def __init__(
        self, llm: SemShareLLM, settings: ServerSettings, admission: Admission, traffic: Traffic, names: Names
    ):
        self.llm = llm
        self.names = names
        self._settings = settings
        self._admission = admission
        self._traffic = traffic
        self._silent = where_silent(llm, settings)

    def check(self, body: schemas.Named, request: Request) -> None:
        """Look at the model's name, and at fields that this server has no use for.

        Raises:
            APIError: one of them is refused.
        """
        self.names.check(body.model)
        self.ignored(request, checked(body, self._settings.strict))

    @staticmethod
    def ignored(request: Request, names: list[str]) -> None:
        """Let the answer's header name what is ignored."""
        request.state.ignored = (*getattr(request.state, "ignored", ()), *names)

    async def answer(
        self, request: Request, form: Form, calls: Sequence[Call], stream: bool
    ) -> Response | dict[str, Any]:
        """Answer messages in a form, for the caller's tenant.

        Args:
            request: Of the client, who may go away meanwhile.
            form: How the answer looks.
            calls: What the adapter is asked for; what they do not say of how tokens are drawn is the server's to say.
            stream: Whether the answer is sent as it is made.

        Raises:
            APIError: the queue is full.
            SemShareError: the messages cannot be answered.
        """
        own = {"sampling": self._silent, "tenant": request.state.tenant}
        calls = [Call(call.messages, {**call.options, **own}) for call in calls]
        answering = Answering(self._admission, lambda clock: self._pieces(form, calls, clock))
        try:
            if not stream:
                try:
                    return form.whole(*await answering.wholes(request))
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

    async def _pieces(self, form: Form, calls: Sequence[Call], clock: Clock) -> AsyncGenerator[Piece]:
        async with aclosing(answered(self.llm, calls, clock)) as pieces:
            async for piece in pieces:
                if piece.generation is not None:
                    await form.ended(piece.generation)
                yield piece


def where_silent(llm: SemShareLLM, settings: ServerSettings) -> Sampling:
    """How tokens are drawn where the caller does not say: as the model's makers advise, up to the context's end.

    A `max_new_tokens` that was set counts.
    """
    own = llm.settings.max_new_tokens if "max_new_tokens" in llm.settings.model_fields_set else None
    advised = llm.reader.model.advised_sampling if settings.sampling == "model" else {}
    return Sampling(max_new_tokens=own, **advised)
