"""`/v1`: chat completions, completions and models."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from typing import Any, Protocol
from uuid import uuid4

from fastapi import APIRouter, Request
from starlette.responses import Response

from semshare_agents.llm import SemShareLLM
from semshare_agents.settings import ServerSettings
from semshare_agents.tools.calls import broken_off
from semshare_agents.values import CallPart, Generation, Piece, ToolCall
from semshare_server import schemas
from semshare_server.answering import Answering, AnswerStream, ClientGoneError, client_closed
from semshare_server.bodies import BoundedRoute
from semshare_server.errors import RESPONSES, APIError
from semshare_server.limits import Admission, Traffic


class Shape(Protocol):
    """How one route's answers look."""

    id: str

    def whole(self, generation: Generation) -> dict[str, Any]:
        """A complete answer."""

    def opening(self, first: Piece) -> dict[str, Any] | None:
        """The first event; None where there is none."""

    def piece(self, piece: Piece) -> dict[str, Any]:
        """An event with text, calls or both."""

    def closing(self, generation: Generation) -> dict[str, Any]:
        """The event that says why the answer ended."""

    def usage(self, generation: Generation) -> dict[str, Any]:
        """The event with token counts."""


class _Base:
    def __init__(self, prefix: str, kind: str, model: str):
        self.id = f"{prefix}-{uuid4().hex}"
        self._head = {"id": self.id, "object": kind, "created": int(time.time()), "model": model}

    def _event(self, choice: dict[str, Any] | None, **more: Any) -> dict[str, Any]:
        choices = [] if choice is None else [{"index": 0, "logprobs": None, "finish_reason": None, **choice}]
        return {**self._head, "choices": choices, **more}

    def _whole(self, kind: str, choice: dict[str, Any], generation: Generation) -> dict[str, Any]:
        event = self._event({**choice, "finish_reason": generation.finish_reason})
        return {**event, "object": kind, "usage": usage_of(generation), "semshare": reuse_of(generation)}

    def usage(self, generation: Generation) -> dict[str, Any]:
        return self._event(None, usage=usage_of(generation))


class ChatShape(_Base):
    """Chat completions."""

    def __init__(self, model: str):
        super().__init__("chatcmpl", "chat.completion.chunk", model)

    def whole(self, generation: Generation) -> dict[str, Any]:
        """A complete answer."""
        calls = [called(call.id, call.name, arguments_of(call)) for call in generation.tool_calls]
        message: dict[str, Any] = {"role": "assistant", "content": generation.text or (None if calls else "")}
        if generation.thoughts:
            message["reasoning_content"] = generation.thoughts
        if calls:
            message["tool_calls"] = calls
        return self._whole("chat.completion", {"message": message}, generation)

    def opening(self, first: Piece) -> dict[str, Any] | None:
        """Says whose the answer is."""
        return self._event({"delta": {"role": "assistant", "content": None if first.tool_calls else ""}})

    def piece(self, piece: Piece) -> dict[str, Any]:
        """An event with text, calls or both."""
        delta: dict[str, Any] = {"reasoning_content": piece.thoughts} if piece.thoughts else {}
        delta |= {"content": piece.text} if piece.text else {}
        if piece.tool_calls:
            delta["tool_calls"] = [part_of(part) for part in piece.tool_calls]
        return self._event({"delta": delta})

    def closing(self, generation: Generation) -> dict[str, Any]:
        """Why the answer ended, and what was reused."""
        choice = {"delta": {}, "finish_reason": generation.finish_reason}
        return self._event(choice, semshare=reuse_of(generation))


class TextShape(_Base):
    """Completions of plain text."""

    def __init__(self, model: str):
        super().__init__("cmpl", "text_completion", model)

    def whole(self, generation: Generation) -> dict[str, Any]:
        """A complete answer."""
        return self._whole("text_completion", {"text": generation.text}, generation)

    def opening(self, first: Piece) -> dict[str, Any] | None:
        """Text begins at once."""
        return None

    def piece(self, piece: Piece) -> dict[str, Any]:
        """An event with text."""
        return self._event({"text": piece.text})

    def closing(self, generation: Generation) -> dict[str, Any]:
        """Why the answer ended, and what was reused."""
        choice = {"text": "", "finish_reason": generation.finish_reason}
        return self._event(choice, semshare=reuse_of(generation))


def called(identifier: str, name: str, arguments: str) -> dict[str, Any]:
    """A tool call."""
    return {"id": identifier, "type": "function", "function": {"name": name, "arguments": arguments}}


def arguments_of(call: ToolCall) -> str:
    """A call's arguments; those of a call that was cut off parse as nothing, also where a client completes JSON."""
    return call.arguments if call.whole else call.arguments + broken_off(call.arguments)


def cut_off(generation: Generation) -> tuple[CallPart, ...]:
    """What ends calls of a stream that were cut off."""
    calls = enumerate(generation.tool_calls)
    return tuple(CallPart(i, arguments=broken_off(call.arguments)) for i, call in calls if not call.whole)


def part_of(part: CallPart) -> dict[str, Any]:
    """What is new of a call: first what it is, then its arguments bit by bit."""
    if part.name:
        return {"index": part.index, **called(part.id, part.name, part.arguments)}
    return {"index": part.index, "function": {"arguments": part.arguments}}


def usage_of(generation: Generation) -> dict[str, Any]:
    """Token counts; cached ones are exact ones."""
    usage = generation.usage
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    }


def reuse_of(generation: Generation) -> dict[str, Any]:
    """The report, without the map, which the page and `semshare turns show` have."""
    return generation.report.as_dict()


async def events(answering: Answering, shape: Shape, with_usage: bool) -> AsyncIterator[str]:
    """The events of a streamed answer, each one JSON text but for the last."""
    opened = False
    async for piece in answering:
        if not opened and (opening := shape.opening(piece)) is not None:
            yield json.dumps(opening)
        opened = True
        if piece.text or piece.tool_calls or piece.thoughts:
            yield json.dumps(shape.piece(piece))
        if piece.generation is not None:
            cut = cut_off(piece.generation)
            if cut:
                yield json.dumps(shape.piece(Piece("", tool_calls=cut)))
            yield json.dumps(shape.closing(piece.generation))
            if with_usage:
                yield json.dumps(shape.usage(piece.generation))
    yield "[DONE]"


class Routes:
    """The routes over one adapter.

    Args:
        llm: The adapter.
        settings: Of the server.
        admission: Who lets requests in.
        traffic: Counts.
        model: The name under which the model is served.
    """

    def __init__(self, llm: SemShareLLM, settings: ServerSettings, admission: Admission, traffic: Traffic, model: str):
        self._llm = llm
        self._settings = settings
        self._admission = admission
        self._traffic = traffic
        self._model = model
        self._since = int(time.time())
        self.router = APIRouter(prefix="/v1", responses=RESPONSES, route_class=BoundedRoute)
        event = {"type": "object", "properties": {"data": {"type": "string"}}, "required": ["data"]}
        stream = {"text/event-stream": {"schema": event}}
        made: dict[int | str, dict[str, Any]] = {
            200: {"content": stream, "description": "The answer, or its events where `stream` is true."}
        }
        add = self.router.add_api_route
        add("/chat/completions", self.chat, methods=["POST"], response_model=schemas.ChatCompletion, responses=made)
        add("/completions", self.complete, methods=["POST"], response_model=schemas.Completion, responses=made)
        add("/models", self.models, methods=["GET"], response_model=schemas.ModelList)
        add("/models/{name:path}", self.one_model, methods=["GET"], response_model=schemas.ModelInfo)

    async def chat(self, body: schemas.ChatRequest, request: Request) -> Any:
        """Answer a conversation."""
        messages = body.messages
        longest = body.max_tokens if body.max_completion_tokens is None else body.max_completion_tokens
        options = {"max_new_tokens": longest, "store": body.store, **body.template_options, **body.tool_options}
        for schema in body.strict_schemas:
            await self._llm.reader.check_schema(schema)
        return await self._answer(body, request, messages, ChatShape(self._model), options)

    async def complete(self, body: schemas.CompletionRequest, request: Request) -> Any:
        """Continue a text."""
        prompt = body.prompt if isinstance(body.prompt, str) else body.prompt[0]
        longest = schemas.TEXT_TOKENS if body.max_tokens is None else body.max_tokens
        options = {"max_new_tokens": longest, "raw": True}
        messages = [{"role": "user", "content": prompt}]
        return await self._answer(body, request, messages, TextShape(self._model), options)

    async def _answer(
        self,
        body: schemas.Common,
        request: Request,
        messages: list[dict[str, Any]],
        shape: Shape,
        options: dict[str, Any],
    ) -> Response | dict[str, Any]:
        self._check_model(body.model)
        own = body.semshare or schemas.ReuseOptions()
        options |= {
            "tenant": request.state.tenant,
            "session": own.session,
            "reuse": own.reuse,
            "fidelity": own.fidelity,
            # Whoever says it in one place must not find it undone by the other.
            "store": False not in (own.store, options.get("store")),
            "temperature": body.temperature,
            "top_p": body.top_p,
            "seed": body.seed,
            "stop": body.stop,
            "response_schema": body.answer_schema,
        }
        answering = Answering(self._admission, lambda clock: self._llm.stream(messages, clock=clock, **options))
        try:
            if not body.stream:
                try:
                    return shape.whole(await answering.whole(request))
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

    def _check_model(self, name: str) -> None:
        if name != self._model:
            message = f"there is no such model here; this server has {self._model!r}"
            raise APIError(404, message, "model_not_found", "model")

    async def models(self) -> dict[str, Any]:
        """The models served: one."""
        return {"object": "list", "data": [self._info()]}

    async def one_model(self, name: str) -> dict[str, Any]:
        """One model."""
        self._check_model(name)
        return self._info()

    def _info(self) -> dict[str, Any]:
        return {"id": self._model, "object": "model", "created": self._since, "owned_by": "semshare"}
