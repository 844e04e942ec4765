"""A message of the Anthropic API: the object, and the events of its stream."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any
from uuid import uuid4

from sse_starlette import ServerSentEvent

from semshare_agents.values import Generation, Piece, ToolCall
from semshare_server.answering import Event
from semshare_server.core import Form
from semshare_server.errors import APIError, anthropic_body
from semshare_server.shapes import reuse_of

Created = Callable[[Generation], Awaitable[int]]
"""Pins what was marked; gives how many of the prompt's tokens were computed for it."""


class MessageForm(Form):
    """One message.

    Calls are sent once they are whole: clients complete the JSON of half a call, and run it.

    Args:
        model: The model's name.
        created: Does what marks of `cache_control` ask for.
        passed_over: Names of tools that were passed over.
    """

    def __init__(self, model: str, created: Created, passed_over: list[str]):
        self._created = created
        self._passed_over = passed_over
        self._ending: dict[str, Any] = {}
        self._usage: dict[str, Any] = {**NOTHING_YET, "output_tokens": 0}
        self._message: dict[str, Any] = {
            "id": f"msg_{uuid4().hex}",
            "type": "message",
            "role": "assistant",
            "model": model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
        }

    async def ended(self, generation: Generation) -> None:
        """Pin what was marked, and count."""
        self._usage = usage_of(generation, await self._created(generation))
        self._ending = {"stop_reason": reason_of(generation), "stop_sequence": generation.stop_string or None}

    def whole(self, generation: Generation, *others: Generation) -> dict[str, Any]:
        """The complete message."""
        thoughts = [{**THOUGHT, "thinking": generation.thoughts}] if generation.thoughts else []
        texts = [{"type": "text", "text": generation.text}] if generation.text else []
        content = thoughts + texts + [_tool_use(call, json.loads(call.arguments)) for call in whole_calls(generation)]
        return {**self._message, "content": content, **self._ending, "usage": self._usage, **self._told(generation)}

    def _told(self, generation: Generation) -> dict[str, Any]:
        return {"semshare": {**reuse_of(generation), "tools_passed_over": self._passed_over}}

    async def events(self, pieces: AsyncIterator[Piece]) -> AsyncIterator[Event]:
        """Its events."""
        yield _event({"type": "message_start", "message": {**self._message, "usage": self._usage}})
        yield _event(PING)
        blocks = _Blocks()
        async for piece in pieces:
            for told in (*blocks.thought(piece.thoughts), *blocks.text(piece.text)):
                yield _event(told)
            if piece.generation is not None:
                for told in blocks.end(piece.generation):
                    yield _event(told)
                ending = {"type": "message_delta", "delta": self._ending, "usage": self._usage}
                yield _event({**ending, **self._told(piece.generation)})
                yield _event({"type": "message_stop"})

    def failed(self, error: APIError) -> Event:
        """The event that ends a stream that fails."""
        return _event(anthropic_body(error))

    def ping(self) -> ServerSentEvent:
        """What is sent while nothing is to be said."""
        return ServerSentEvent(json.dumps(PING), event="ping")


PING = {"type": "ping"}
THOUGHT = {"type": "thinking", "thinking": "", "signature": ""}
"""A thought; nobody signs it."""
NOTHING_YET = {"input_tokens": 0, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0}
REASONS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}


class _Blocks:
    """Content blocks, as they are streamed."""

    def __init__(self) -> None:
        self._count = 0
        self._open = ""

    def thought(self, text: str) -> Iterator[dict[str, Any]]:
        """Go on with a thought."""
        return self._went_on(THOUGHT, {"type": "thinking_delta", "thinking": text}) if text else iter(())

    def text(self, text: str) -> Iterator[dict[str, Any]]:
        """Go on with a text."""
        begun = {"type": "text", "text": ""}
        return self._went_on(begun, {"type": "text_delta", "text": text}) if text else iter(())

    def _went_on(self, begun: dict[str, str], delta: dict[str, str]) -> Iterator[dict[str, Any]]:
        if self._open != begun["type"]:
            yield from self._closed()
            self._open = begun["type"]
            yield self._about("content_block_start", content_block=begun)
        yield self._about("content_block_delta", delta=delta)

    def end(self, generation: Generation) -> Iterator[dict[str, Any]]:
        """Close the text, and tell of calls."""
        yield from self._closed()
        for call in whole_calls(generation):
            yield self._about("content_block_start", content_block=_tool_use(call, {}))
            yield self._about("content_block_delta", delta={"type": "input_json_delta", "partial_json": call.arguments})
            self._open = "tool_use"
            yield from self._closed()

    def _closed(self) -> Iterator[dict[str, Any]]:
        if self._open:
            yield self._about("content_block_stop")
            self._open = ""
            self._count += 1

    def _about(self, kind: str, **more: Any) -> dict[str, Any]:
        return {"type": kind, "index": self._count, **more}


def _event(told: dict[str, Any]) -> dict[str, str]:
    return {"event": told["type"], "data": json.dumps(told)}


def _tool_use(call: ToolCall, given: dict[str, Any]) -> dict[str, Any]:
    return {"type": "tool_use", "id": call.id, "name": call.name, "input": given}


def whole_calls(generation: Generation) -> list[ToolCall]:
    """Calls that may be run: complete ones, with an object as arguments."""
    return [call for call in generation.tool_calls if call.whole and _is_object(call.arguments)]


def _is_object(arguments: str) -> bool:
    try:
        return isinstance(json.loads(arguments), dict)
    except (ValueError, RecursionError):
        return False


def reason_of(generation: Generation) -> str:
    """Why the answer ended."""
    return "stop_sequence" if generation.stop_string else REASONS[generation.finish_reason]


def usage_of(generation: Generation, created: int) -> dict[str, Any]:
    """Token counts; the three of the input sum to the prompt.

    Args:
        generation: The answer.
        created: Tokens of the prompt that were computed and are pinned now.
    """
    usage = generation.usage
    return {
        "input_tokens": usage.prompt_tokens - usage.cached_tokens - created,
        "cache_creation_input_tokens": created,
        "cache_read_input_tokens": usage.cached_tokens,
        "output_tokens": usage.completion_tokens,
    }
