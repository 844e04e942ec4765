"""`/v1/messages`: messages and token counts."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from fastapi import APIRouter, Request

from semshare_agents.errors import PinError, RegistryError
from semshare_agents.values import Generation
from semshare_server.bodies import BoundedRoute
from semshare_server.core import ANSWERED, Core, longest, reuse_options
from semshare_server.errors import RESPONSES
from semshare_server.messages.blocks import Chat, chat_of, choice_of, marks, tools_of
from semshare_server.messages.form import MessageForm
from semshare_server.messages.schemas import AnthropicErrorResponse, CountRequest, MessageRequest, TokenCount
from semshare_server.prompts import Call

log = logging.getLogger(__name__)

ERRORS: dict[int | str, dict[str, Any]] = {
    status: {**told, "model": AnthropicErrorResponse} for status, told in RESPONSES.items()
}
ASKED = {"role": "user", "content": "x"}


class MessagesRoutes:
    """The routes over one core.

    Args:
        core: Answers.
    """

    def __init__(self, core: Core):
        self._core = core
        self.router = APIRouter(prefix="/v1", responses=ERRORS, route_class=BoundedRoute)
        add = self.router.add_api_route
        add("/messages", self.create, methods=["POST"], response_model=None, responses=ANSWERED)
        add("/messages/count_tokens", self.count, methods=["POST"], response_model=TokenCount)

    async def create(self, body: MessageRequest, request: Request) -> Any:
        """Answer a conversation."""
        self._core.check(body, request)
        chat = chat_of(body.system, body.messages)
        tools, passed_over = tools_of(body.tools)
        choice, parallel = choice_of(body.tool_choice, tools)
        options = {
            **reuse_options(body.semshare),
            "max_new_tokens": longest(body.max_tokens),
            "temperature": body.temperature,
            "top_p": body.top_p,
            "top_k": body.top_k,
            "stop": body.stop_sequences,
            "tools": tools or None,
            "tool_choice": choice,
            "parallel_tool_calls": parallel,
            "response_schema": body.answer_schema,
            "reasoning_effort": body.effort,
            "split_thoughts": True,
        }
        pins = _Pins(self._core, body, tools, request.state.tenant)
        form = MessageForm(self._core.names.served, pins.created, passed_over)
        return await self._core.answer(request, form, [Call(chat, options)], bool(body.stream))

    async def count(self, body: CountRequest, request: Request) -> dict[str, Any]:
        """Count the tokens of a conversation as a prompt has them."""
        self._core.check(body, request)
        chat = chat_of(body.system, body.messages)
        tools, _ = tools_of(body.tools)
        choice, _ = choice_of(body.tool_choice, tools)
        return {"input_tokens": await _counted(self._core, chat, [] if choice == "none" else tools)}


class _Pins:
    """What marks of `cache_control` in a request ask for: its turn stays for the longest of their times.

    Args:
        core: Has the adapter.
        body: The request.
        tools: Its tools, in OpenAI's form.
        tenant: Whose it is.
    """

    def __init__(self, core: Core, body: MessageRequest, tools: Chat, tenant: str):
        self._core = core
        self._body = body
        self._tools = tools
        self._tenant = tenant
        self._marks = list(marks(body.system, body.tools, body.messages, body.cache_control))

    async def created(self, generation: Generation) -> int:
        """Pin the turn; gives how many tokens up to the last mark were computed for it, 0 where nothing was pinned."""
        turn_id = generation.report.turn_id
        if not self._marks or turn_id is None:
            return 0
        try:
            seconds = max(seconds for _, seconds in self._marks)
            await self._core.llm.pin(turn=turn_id, tenant=self._tenant, seconds=seconds)
        except (PinError, RegistryError) as e:
            log.warning("a marked turn is not pinned: %s", e)
            return 0
        usage = generation.usage
        marked = min(usage.prompt_tokens, await self._marked_tokens(usage.prompt_tokens))
        return max(0, marked - usage.cached_tokens)

    async def _marked_tokens(self, prompt_tokens: int) -> int:
        """Tokens up to the last mark."""
        last = max(at for at, _ in self._marks)
        if last == len(self._body.messages) - 1:
            return prompt_tokens
        chat = chat_of(self._body.system, self._body.messages[: last + 1])
        return await _counted(self._core, chat or [ASKED], self._tools)


async def _counted(core: Core, chat: Chat, tools: Chat) -> int:
    counter = core.llm.reader.counter()
    return await asyncio.to_thread(counter.messages, chat, tools or None)
