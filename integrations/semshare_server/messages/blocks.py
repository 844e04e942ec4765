"""System text, messages and tools of the Anthropic API in the form of chat completions."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from semshare_server.errors import APIError
from semshare_server.forms import usable

Block = Mapping[str, Any]
Chat = list[dict[str, Any]]
SECONDS = {"5m": 300.0, "1h": 3600.0}
NOT_READ = ("redacted_thinking",)
"""Blocks that nobody but their maker can read."""


def wrong(place: str, problem: str) -> APIError:
    """What is wrong with a part of the body."""
    return APIError(400, f"{place}: {problem}", "invalid_request", place)


def chat_of(system: str | Sequence[Block] | None, messages: Sequence[Block]) -> Chat:
    """A conversation.

    Args:
        system: Its system text, whole or in blocks.
        messages: What was said.

    Raises:
        APIError: a block is malformed, or cannot be told a model that reads text.
    """
    chat: Chat = []
    if system:
        chat.append({"role": "system", "content": _joined(_texts(system, "system"))})
    for at, message in enumerate(messages):
        chat += _of_message(message, f"messages.{at}")
    return chat


def _of_message(message: Block, place: str) -> Chat:
    role, content = message.get("role"), message.get("content")
    if role not in ("user", "assistant", "system"):
        raise wrong(f"{place}.role", f"must be user, assistant or system, not {role!r}")
    blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
    if not isinstance(blocks, list) or not all(isinstance(block, Mapping) for block in blocks):
        raise wrong(f"{place}.content", "must be a text or a list of blocks")
    placed = [(block, f"{place}.content.{at}") for at, block in enumerate(blocks)]
    if role == "assistant":
        return [_said(placed)]
    results = [_result(block, where) for block, where in placed if block.get("type") == "tool_result"]
    others = [(block, where) for block, where in placed if block.get("type") != "tool_result"]
    texts = [_text(block, where) for block, where in others]
    # Results follow the calls that they answer; what the user says beside them comes after.
    return results if results and not texts else [*results, {"role": role, "content": _joined(texts)}]


def _said(placed: Sequence[tuple[Block, str]]) -> dict[str, Any]:
    """A message of the assistant: its thoughts, texts and calls."""
    texts, thoughts, calls = [], "", []
    for block, place in placed:
        kind = block.get("type")
        if kind == "tool_use":
            calls.append(_call(block, place))
        elif kind == "thinking":
            thoughts += _field(block, "thinking", place)
        elif kind not in NOT_READ:
            texts.append(_text(block, place))
    message: dict[str, Any] = {"role": "assistant", "content": _joined(texts)}
    return message | ({"reasoning_content": thoughts} if thoughts else {}) | ({"tool_calls": calls} if calls else {})


def _call(block: Block, place: str) -> dict[str, Any]:
    given = block.get("input", {})
    if not isinstance(given, Mapping):
        raise wrong(f"{place}.input", "must be an object")
    function = {"name": _field(block, "name", place), "arguments": json.dumps(given, ensure_ascii=False)}
    return {"id": _field(block, "id", place), "type": "function", "function": function}


def _result(block: Block, place: str) -> dict[str, Any]:
    texts = _texts(block.get("content") or "", f"{place}.content")
    if block.get("is_error") is True:
        # Nothing else tells the model that the call failed.
        texts[:1] = ["Error: " + "".join(texts[:1])]
    return {"role": "tool", "tool_call_id": _field(block, "tool_use_id", place), "content": _joined(texts)}


def _texts(content: object, place: str) -> list[str]:
    if isinstance(content, str):
        return [content]
    if not isinstance(content, list):
        raise wrong(place, "must be a text or a list of blocks")
    return [_text(block, f"{place}.{at}") for at, block in enumerate(content)]


def _text(block: object, place: str) -> str:
    kind = block.get("type") if isinstance(block, Mapping) else None
    if isinstance(block, Mapping) and kind == "text":
        return _field(block, "text", place)
    source = block.get("source") if isinstance(block, Mapping) and kind == "document" else None
    if isinstance(source, Mapping) and source.get("type") == "text":
        return _field(source, "data", f"{place}.source")
    raise wrong(place, f"this model reads text alone, not {kind!r}")


def _field(block: Block, field: str, place: str) -> str:
    value = block.get(field)
    if not isinstance(value, str):
        raise wrong(f"{place}.{field}", f"must be text, not {type(value).__name__}")
    return value


def _joined(texts: Sequence[str]) -> str | list[dict[str, str]]:
    """Texts as one content; how several are put together is the same for every route."""
    if len(texts) < 2:
        return "".join(texts)
    return [{"type": "text", "text": text} for text in texts]


def tools_of(tools: Sequence[Block] | None) -> tuple[Chat, list[str]]:
    """Tools in the form of chat completions, and the names of those that are passed over: odd ones, and other kinds.

    Raises:
        InvalidToolsError: there are tools, and none can be called.
    """
    own = [{**tool, "type": None} for tool in tools or () if tool.get("type") in (None, "custom")]
    others = [str(t.get("name") or t.get("type")) for t in tools or () if t.get("type") not in (None, "custom")]
    known, odd = usable(own)
    return known, others + [str(own[int(place.rpartition(".")[2])].get("name")) for place in odd]


def choice_of(choice: Block | None, tools: Chat) -> tuple[str | None, bool]:
    """Which tool must be called, in the adapter's words, and whether there may be several calls.

    Raises:
        APIError: the choice is malformed, or asks for a call without tools.
    """
    if choice is None:
        return None, False
    words = {"auto": "auto", "any": "required", "none": "none", "tool": choice.get("name")}
    kind = choice.get("type")
    word = words.get(kind) if isinstance(kind, str) else None
    if not isinstance(word, str):
        raise wrong("tool_choice", "must be of type auto, any, none, or tool with a name")
    if kind in ("any", "tool") and not tools:
        raise wrong("tool_choice", "asks for a call, but there are no tools")
    return word if tools else None, choice.get("disable_parallel_tool_use") is False


def marks(
    system: object, tools: Sequence[Block] | None, messages: Sequence[Block], whole: Block | None
) -> Iterator[tuple[int, float]]:
    """Marks of `cache_control`: up to which message, counted from 0 with -1 for system and tools, and for how long.

    Raises:
        APIError: a mark is malformed.
    """
    if whole is not None:
        yield len(messages) - 1, _seconds(whole, "cache_control")
    heads = [*(tools or ()), *(system if isinstance(system, list) else ())]
    placed = [(-1, block, "system") for block in heads]
    for at, message in enumerate(messages):
        content = message.get("content")
        blocks = content if isinstance(content, list) else []
        placed += [(at, block, f"messages.{at}") for block in blocks]
    for at, block, place in placed:
        mark = block.get("cache_control") if isinstance(block, Mapping) else None
        if mark is not None:
            yield at, _seconds(mark, f"{place}.cache_control")


def _seconds(mark: object, place: str) -> float:
    ttl = mark.get("ttl") or "5m" if isinstance(mark, Mapping) and mark.get("type") == "ephemeral" else None
    if not isinstance(ttl, str) or ttl not in SECONDS:
        raise wrong(place, "must be of type ephemeral with a ttl of 5m or 1h")
    return SECONDS[ttl]
