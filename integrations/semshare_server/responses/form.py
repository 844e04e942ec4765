"""A response: the object, and the events of its stream."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

from sse_starlette import ServerSentEvent

from semshare_agents.values import Generation, Piece
from semshare_server.answering import Event
from semshare_server.core import Form
from semshare_server.errors import APIError
from semshare_server.responses.kept import item_ids
from semshare_server.responses.output import Output, Told, of_whole
from semshare_server.responses.schemas import ResponseRequest
from semshare_server.shapes import reuse_of

Keep = Callable[[int | None, Mapping[str, Any]], Awaitable[bool]]


class ResponseForm(Form):
    """One response.

    Args:
        body: What was asked for.
        model: The model's name.
        identifier: The response's id.
        keep: Keeps it with a turn, and says whether that was done; None where nothing is to be kept.
        passed_over: Names of tools that were passed over.
    """

    def __init__(self, body: ResponseRequest, model: str, identifier: str, keep: Keep | None, passed_over: list[str]):
        self._keep = keep
        self._stream = bool(body.stream)
        self._passed_over = passed_over
        self._output = Output(item_ids(identifier))
        self._closing: list[Told] = []
        self._number = 0
        self._opened = opened(body, model, identifier, keep is not None)
        self._response = self._opened

    async def ended(self, generation: Generation) -> None:
        """Complete the response and keep it."""
        if not self._stream:
            list(self._output.push(of_whole(generation)))
        self._closing = list(self._output.end(generation))
        cut = generation.finish_reason == "length"
        self._response = {
            **self._opened,
            "status": "incomplete" if cut else "completed",
            "completed_at": None if cut else int(time.time()),
            "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
            "output": self._output.items,
            "usage": usage_of(generation),
            "semshare": {**reuse_of(generation), "tools_passed_over": self._passed_over},
        }
        if self._keep is not None:
            self._response["store"] = await self._keep(generation.report.turn_id, self._response)

    def whole(self, generation: Generation, *others: Generation) -> dict[str, Any]:
        """The complete response."""
        return self._response

    async def events(self, pieces: AsyncIterator[Piece]) -> AsyncIterator[Event]:
        """Its events."""
        yield self._event({"type": "response.created", "response": self._opened})
        yield self._event({"type": "response.in_progress", "response": self._opened})
        async for piece in pieces:
            if piece.generation is None:
                for told in self._output.push(piece):
                    yield self._event(told)
        for told in self._closing:
            yield self._event(told)
        yield self._event({"type": f"response.{self._response['status']}", "response": self._response})

    def failed(self, error: APIError) -> Event:
        """The event that ends a response that fails."""
        code = error.code if error.status < 500 else "server_error"
        failure = {"status": "failed", "error": {"code": code or "invalid_prompt", "message": error.message}}
        return self._event({"type": "response.failed", "response": {**self._opened, **failure}})

    def ping(self) -> ServerSentEvent:
        """A comment: clients know no event for silence."""
        return ServerSentEvent(comment="ping")

    def _event(self, told: Told) -> dict[str, str]:
        data = json.dumps({"type": told["type"], "sequence_number": self._number, **told})
        self._number += 1
        return {"event": told["type"], "data": data}


def opened(body: ResponseRequest, model: str, identifier: str, store: bool) -> dict[str, Any]:
    """A response of which nothing was said yet."""
    text = body.text.model_dump(by_alias=True, exclude_none=True) if body.text is not None else {}
    return {
        "id": identifier,
        "object": "response",
        "created_at": int(time.time()),
        "completed_at": None,
        "status": "in_progress",
        "background": False,
        "error": None,
        "incomplete_details": None,
        "instructions": body.instructions,
        "max_output_tokens": body.max_output_tokens,
        "max_tool_calls": None,
        "metadata": body.metadata or {},
        "model": model,
        "output": [],
        "parallel_tool_calls": bool(body.parallel_tool_calls),
        "previous_response_id": body.previous_response_id,
        "reasoning": {"effort": body.reasoning.effort if body.reasoning is not None else None, "summary": None},
        "store": store,
        "temperature": body.temperature,
        "text": {**text, "format": text.get("format", {"type": "text"})},
        "tool_choice": body.tool_choice or "auto",
        "tools": [{"parameters": None, "strict": None, **tool} for tool in body.tools or ()],
        "top_p": body.top_p,
        "truncation": "disabled",
        "usage": None,
        "user": body.user,
    }


def usage_of(generation: Generation) -> dict[str, Any]:
    """Token counts; cached ones are exact ones."""
    usage = generation.usage
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": usage.total_tokens,
    }
