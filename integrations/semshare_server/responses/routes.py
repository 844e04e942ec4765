"""`/v1/responses`: making, reading and deleting responses."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from fastapi import APIRouter, Request

from semshare_agents.registry.notes import Noted
from semshare_server.bodies import BoundedRoute
from semshare_server.core import ANSWERED, Core, longest, reuse_options
from semshare_server.errors import RESPONSES
from semshare_server.prompts import Call
from semshare_server.responses.form import ResponseForm
from semshare_server.responses.items import chosen_tools, function_tools, input_messages, referenced, wrong
from semshare_server.responses.kept import Kept, history_of, new_id, new_session, not_found, session_of
from semshare_server.responses.schemas import ResponseRequest


class ResponsesRoutes:
    """The routes over one core.

    Args:
        core: Answers.
    """

    def __init__(self, core: Core):
        self._core = core
        self._kept = Kept(core.llm)
        self.router = APIRouter(prefix="/v1", responses=RESPONSES, route_class=BoundedRoute)
        add = self.router.add_api_route
        add("/responses", self.create, methods=["POST"], response_model=None, responses=ANSWERED)
        add("/responses/{identifier}", self.read, methods=["GET"], response_model=None)
        add("/responses/{identifier}", self.delete, methods=["DELETE"], response_model=None)

    async def create(self, body: ResponseRequest, request: Request) -> Any:
        """Answer input, and what came before it."""
        self._core.check(body, request)
        if body.input is None and body.previous_response_id is None:
            raise wrong("input", "give a text or items")
        tenant: str = request.state.tenant
        before = await self._before(tenant, body.previous_response_id)
        options = reuse_options(body.semshare, body.store)
        options["session"] = self._session(body.previous_response_id, options["session"])
        tools, passed_over = function_tools(body.tools)
        tools, choice = chosen_tools(body.tool_choice, tools)
        for tool in body.tools or ():
            if tool.get("type") == "function" and tool.get("strict") is True and tool.get("parameters") is not None:
                await self._core.llm.reader.check_schema(tool["parameters"])
        options |= {
            "max_new_tokens": longest(body.max_output_tokens),
            "temperature": body.temperature,
            "top_p": body.top_p,
            "tools": tools or None,
            "tool_choice": choice,
            "parallel_tool_calls": bool(body.parallel_tool_calls),
            "response_schema": body.answer_schema,
            "reasoning_effort": body.reasoning.effort if body.reasoning is not None else None,
            "split_thoughts": True,
        }
        known = await self._kept.items(tenant, referenced(body.input or []))
        messages = messages_of(body, before, known)
        identifier = new_id(options["session"])
        keep = partial(self._kept.keep, tenant) if options["store"] else None
        form = ResponseForm(body, self._core.names.served, identifier, keep, passed_over)
        return await self._core.answer(request, form, [Call(messages, options)], bool(body.stream))

    async def _before(self, tenant: str, identifier: str | None) -> Noted | None:
        if identifier is None:
            return None
        found = await self._kept.find(tenant, identifier)
        if found is None:
            raise not_found(identifier, 400, "previous_response_id")
        return found

    @staticmethod
    def _session(previous: str | None, named: str | None) -> str:
        """The session of a response: that of the one before it."""
        session = named or new_session() if previous is None else session_of(previous)
        assert session is not None
        if named not in (None, session):
            raise wrong("semshare.session", f"the previous response is one of session {session!r}: leave it out")
        return session

    async def read(self, identifier: str, request: Request) -> dict[str, Any]:
        """A kept response."""
        found = await self._kept.find(request.state.tenant, identifier)
        if found is None:
            raise not_found(identifier)
        response: dict[str, Any] = found.values["response"]
        return response

    async def delete(self, identifier: str, request: Request) -> dict[str, Any]:
        """Forget a response and those that go on from it."""
        if not await self._kept.delete(request.state.tenant, identifier):
            raise not_found(identifier)
        return {"id": identifier, "object": "response", "deleted": True}


def messages_of(body: ResponseRequest, before: Noted | None, known: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The prompt's messages: instructions, what was said before, and the input.

    Args:
        body: What is asked for.
        before: The response that it goes on from.
        known: Items that the input names by their ids.
    """
    told = [] if body.instructions is None else [{"role": "system", "content": body.instructions}]
    return [*told, *([] if before is None else history_of(before)), *input_messages(body.input or [], known)]
