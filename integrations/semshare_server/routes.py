"""`/v1/chat/completions` and `/v1/completions`."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from semshare_server import schemas
from semshare_server.bodies import BoundedRoute
from semshare_server.core import ANSWERED, Core, reuse_options
from semshare_server.errors import RESPONSES, APIError
from semshare_server.prompts import Call, raw_calls, text_of
from semshare_server.shapes import ChatShape, Completions, Shape, TextShape


class Routes:
    """The routes over one core.

    Args:
        core: Answers.
    """

    def __init__(self, core: Core):
        self._core = core
        self._llm = core.llm
        self._names = core.names
        self.router = APIRouter(prefix="/v1", responses=RESPONSES, route_class=BoundedRoute)
        made = ANSWERED
        add = self.router.add_api_route
        add("/chat/completions", self.chat, methods=["POST"], response_model=schemas.ChatCompletion, responses=made)
        add("/completions", self.complete, methods=["POST"], response_model=schemas.Completion, responses=made)

    async def chat(self, body: schemas.ChatRequest, request: Request) -> Any:
        """Answer a conversation."""
        tools, odd = body.tool_options()
        self._core.ignored(request, odd)
        options = {"max_new_tokens": body.most_tokens, "store": body.store, "logprobs": body.likeliest}
        options |= {**tools, **body.template_options}
        for schema in body.strict_schemas:
            await self._llm.reader.check_schema(schema)
        return await self._answer(body, request, body.messages, ChatShape(self._names.served), options)

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
        self._core.check(body, request)
        return {
            **options,
            **body.sampling_options,
            **reuse_options(body.semshare, options.get("store")),
            "response_schema": body.answer_schema,
        }

    async def _answers(
        self, body: schemas.Common, request: Request, calls: Sequence[Call], shape: Shape
    ) -> Response | dict[str, Any]:
        with_usage = body.stream_options is not None and bool(body.stream_options.include_usage)
        return await self._core.answer(request, Completions(shape, with_usage), calls, bool(body.stream))
