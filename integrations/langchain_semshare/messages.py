"""LangChain's messages to the adapter's, and its answers to LangChain's."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    InvalidToolCall,
    SystemMessage,
    ToolCall,
    ToolMessage,
)
from langchain_core.messages.ai import UsageMetadata
from langchain_core.messages.tool import invalid_tool_call, tool_call, tool_call_chunk

from semshare_agents.errors import InvalidMessagesError
from semshare_agents.messages.parts import Parts, read_parts
from semshare_agents.tools.calls import broken_off
from semshare_agents.values import Generation, Piece

ROLES: dict[type[BaseMessage], str] = {
    SystemMessage: "system",
    HumanMessage: "user",
    AIMessage: "assistant",
    ToolMessage: "tool",
    FunctionMessage: "function",
}
TOLD_ELSEWHERE = frozenset(
    {"tool_use", "tool_call", "tool_call_chunk", "invalid_tool_call", "function_call", "input_json_delta"}
)
"""Blocks of an answer that its `tool_calls` and `invalid_tool_calls` say once more."""

CUT = "the answer ended before the call did"


def to_adapter(messages: Sequence[BaseMessage]) -> list[dict[str, Any]]:
    """Messages as the adapter takes them.

    Raises:
        InvalidMessagesError: a message has no role that a model knows, or parts other than text.
    """
    return [_message(index, message) for index, message in enumerate(messages)]


def _message(index: int, message: BaseMessage) -> dict[str, Any]:
    parts = _parts(index, message)
    told: dict[str, Any] = {"role": _role(message), "content": parts.text}
    thoughts = "\n".join(parts.thoughts) or _beside(message)
    if thoughts:
        told["reasoning_content"] = thoughts
    if message.name:
        told["name"] = message.name
    if isinstance(message, ToolMessage):
        told["tool_call_id"] = message.tool_call_id
    if isinstance(message, AIMessage) and (message.tool_calls or message.invalid_tool_calls):
        calls = [(c["id"], c["name"], c["args"]) for c in message.tool_calls]
        broken = [(c["id"], c["name"] or "", c["args"] or "") for c in message.invalid_tool_calls]
        told["tool_calls"] = [
            {"id": i or "", "type": "function", "function": {"name": name, "arguments": arguments}}
            for i, name, arguments in (*calls, *broken)
        ]
    return told


def _role(message: BaseMessage) -> str:
    if isinstance(message, ChatMessage):
        return message.role
    role = next((role for kind, role in ROLES.items() if isinstance(message, kind)), None)
    if role is None:
        raise InvalidMessagesError(f"a {type(message).__name__} cannot be told to a model")
    return role


def _parts(index: int, message: BaseMessage) -> Parts:
    """What a message's content says; a string in a list of blocks is text."""
    if isinstance(message.content, str):
        return Parts([message.content])
    blocks = [{"type": "text", "text": b} if isinstance(b, str) else b for b in message.content]
    if isinstance(message, AIMessage):
        blocks = [b for b in blocks if b.get("type") not in TOLD_ELSEWHERE]
    return read_parts(index, blocks)


def _beside(message: BaseMessage) -> str:
    """What an assistant thought, as some providers' models have it beside the content."""
    beside = message.additional_kwargs.get("reasoning_content") if isinstance(message, AIMessage) else None
    return beside if isinstance(beside, str) else ""


def _thought(thoughts: str) -> dict[str, Any]:
    """Thoughts where other models of LangChain have them, and `content_blocks` looks for them."""
    return {"reasoning_content": thoughts} if thoughts else {}


def usage_of(generation: Generation) -> UsageMetadata:
    """Token counts; what was reused is counted as read from the cache only as far as it is exact."""
    usage = generation.usage
    return UsageMetadata(
        input_tokens=usage.prompt_tokens,
        output_tokens=usage.completion_tokens,
        total_tokens=usage.total_tokens,
        input_token_details={"cache_read": usage.cached_tokens},
    )


def metadata_of(generation: Generation, model: str) -> dict[str, Any]:
    """Model, reason of the end, and the reuse report."""
    return {
        "model_name": model,
        "model_provider": "semshare",
        "finish_reason": generation.finish_reason,
        "semshare": generation.report.as_dict(),
    }


def whole(generation: Generation, model: str) -> AIMessage:
    """An answer as a message."""
    calls: list[ToolCall] = []
    broken: list[InvalidToolCall] = []
    for call in generation.tool_calls:
        if not call.whole:
            broken.append(invalid_tool_call(name=call.name, args=call.arguments, id=call.id, error=CUT))
            continue
        try:
            arguments = json.loads(call.arguments)
        except (ValueError, RecursionError) as e:
            broken.append(invalid_tool_call(name=call.name, args=call.arguments, id=call.id, error=str(e)))
            continue
        if isinstance(arguments, dict):
            calls.append(tool_call(name=call.name, args=arguments, id=call.id))
        else:
            error = "the arguments are no JSON object"
            broken.append(invalid_tool_call(name=call.name, args=call.arguments, id=call.id, error=error))
    return AIMessage(
        content=generation.text,
        additional_kwargs=_thought(generation.thoughts),
        tool_calls=calls,
        invalid_tool_calls=broken,
        usage_metadata=usage_of(generation),
        response_metadata=metadata_of(generation, model),
    )


def part(piece: Piece, model: str) -> AIMessageChunk:
    """A piece of an answer as a part of a message."""
    if piece.generation is not None:
        return AIMessageChunk(
            content="",
            tool_call_chunks=[
                tool_call_chunk(args=broken_off(call.arguments), index=index)
                for index, call in enumerate(piece.generation.tool_calls)
                if not call.whole
            ],
            usage_metadata=usage_of(piece.generation),
            response_metadata=metadata_of(piece.generation, model),
            chunk_position="last",
        )
    calls = [
        tool_call_chunk(name=c.name or None, args=c.arguments, id=c.id or None, index=c.index) for c in piece.tool_calls
    ]
    return AIMessageChunk(content=piece.text, additional_kwargs=_thought(piece.thoughts), tool_call_chunks=calls)
