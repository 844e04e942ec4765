"""`/v1/chat/completions` and `/v1/completions`."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from semshare_agents.llm import SemShareLLM
from semshare_agents.settings import ServerSettings
from semshare_agents.values import Sampling
from semshare_server import schemas
from semshare_server.answering import Answering, AnswerStream, ClientGoneError, client_closed
from semshare_server.bodies import BoundedRoute
from semshare_server.errors import RESPONSES, APIError
from semshare_server.fields import checked
from semshare_server.limits import Admission, Traffic
from semshare_server.models import Names
from semshare_server.prompts import Call, answered, raw_calls, text_of
from semshare_server.shapes import ChatShape, Shape, TextShape, events


class Routes:
    """The routes over one adapter.

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
        self._llm = llm
        self._settings = settings
        self._admission = admission
        self._traffic = traffic
        self._names = names
        self._silent = where_silent(llm, settings)
        self.router = APIRouter(prefix="/v1", responses=RESPONSES, route_class=BoundedRoute)
        event = {"type": "object", "properties": {"data": {"type": "string"}}, "required": ["data"]}
        stream = {"text/event-stream": {"schema": event}}
        made: dict[int | str, dict[str, Any]] = {
            200: {"content": stream, "description": "The answer, or its events where `stream` is true."}
        }
        add = self.router.add_api_route
        add("/chat/completions", self.chat, methods=["POST"], response_model=schemas.ChatCompletion, responses=made)
        add("/completions", self.complete, methods=["POST"], response_model=schemas.Completion, responses=made)

    async def chat(self, body: schemas.ChatRequest, request: Request) -> Any:
        """Answer a conversation."""
        messages = [m.model_dump(exclude_none=True) for m in body.messages]
        tools, odd = body.tool_options()
        self._ignored(request, odd)
        options = {"max_new_tokens": body.most_tokens, "store": body.store, "logprobs": body.likeliest, **tools}
        for schema in body.strict_schemas:
            await self._llm.reader.check_schema(schema)
        return await self._answer(body, request, messages, ChatShape(self._names.served), options)

    async def complete(self, body: schemas.CompletionRequest, request: Request) -> Any:
        """Continue one text or several."""
        if body.echo and body.stream and body.likeliest is not None:
            raise APIError(400, "echo with logprobs is not streamed: leave out `stream`", "unsupported_field", "echo")
        tokenizer = self._llm.reader.model.tokenizer
        texts = await asyncio.to_thread(lambda: [text_of(tokenizer, prompt) for prompt in body.prompts])
        calls = raw_calls(body, texts, self._common(body, request, {"store": body.store}))
        before = [text for text in texts for _ in range(body.n or 1)] if body.echo else ()
        return await self._answers(body, request, calls, TextShape(self._names.served, before, body.most_tokens == 0))

    async def _answer(
        self,
        body: schemas.Common,
        request: Request,
        messages: list[dict[str, Any]],
        shape: Shape,
        options: dict[str, Any],
    ) -> Response | dict[str, Any]:
        """Answer one prompt.

        Args:
            body: Says how tokens are drawn, whether the answer is streamed, and what of the server's own is wanted.
            request: The request.
            messages: The messages.
            shape: How the answer looks.
            options: Of the adapter, besides those that the body says.
        """
        call = Call(messages, self._common(body, request, options))
        return await self._answers(body, request, [call], shape)

    def _common(self, body: schemas.Common, request: Request, options: dict[str, Any]) -> dict[str, Any]:
        """Options of the adapter: those given, and those that every body says."""
        self._names.check(body.model)
        self._ignored(request, checked(body, self._settings.strict))
        own = body.semshare or schemas.ReuseOptions()
        return {
            **options,
            **body.sampling_options,
            "sampling": self._silent,
            "tenant": request.state.tenant,
            "session": own.session,
            "reuse": own.reuse,
            "fidelity": own.fidelity,
            # Whoever says it in one place must not find it undone by the other.
            "store": False not in (own.store, options.get("store")),
            "response_schema": body.answer_schema,
        }

    @staticmethod
    def _ignored(request: Request, names: list[str]) -> None:
        """Let the answer's header name what is ignored."""
        request.state.ignored = (*getattr(request.state, "ignored", ()), *names)

    async def _answers(
        self, body: schemas.Common, request: Request, calls: Sequence[Call], shape: Shape
    ) -> Response | dict[str, Any]:
        answering = Answering(self._admission, lambda clock: answered(self._llm, calls, clock))
        try:
            if not body.stream:
                try:
                    return shape.whole(*await answering.wholes(request))
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
        with_usage = body.stream_options is not None and bool(body.stream_options.include_usage)
        ping, grace = self._settings.ping_seconds, self._settings.shutdown_seconds
        return AnswerStream(answering, events(answering, shape, with_usage), ping, grace, self._traffic.cancelled.inc)


def where_silent(llm: SemShareLLM, settings: ServerSettings) -> Sampling:
    """How tokens are drawn where the caller does not say: as the model's makers advise, up to the context's end.

    A `max_new_tokens` that was set counts.
    """
    own = llm.settings.max_new_tokens if "max_new_tokens" in llm.settings.model_fields_set else None
    advised = llm.reader.model.advised_sampling if settings.sampling == "model" else {}
    return Sampling(max_new_tokens=own, **advised)
