"""A caller's messages in one form: text, thoughts, calls with their arguments, results with the call they answer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from semshare_agents.errors import InvalidMessagesError
from semshare_agents.tools.depth import MOST_NESTED, too_deep
from semshare_agents.values import Messages

Chat = list[dict[str, Any]]

ROLES = frozenset({"system", "developer", "user", "assistant", "tool", "function", "ipython"})
RESULTS = frozenset({"tool", "function", "ipython"})
"""Roles of a tool's result; `function` and `ipython` are older names of `tool`."""

THOUGHTS = "reasoning_content"
"""The field in which a cleaned message has its thoughts."""
THOUGHT_FIELDS = (THOUGHTS, "reasoning", "thinking")
THOUGHT_PARTS = ("thinking", "reasoning")
"""Types of content parts that hold a thought; the text stands under the same key."""


def clean_messages(messages: Messages) -> Chat:
    """Validate a message list; lists of parts become one text, thoughts stand in `THOUGHTS`.

    Arguments of calls become the mapping that they say; those that say none stay text.

    Raises:
        InvalidMessagesError: it is empty, or an entry is no mapping with a known role and text content.
    """
    if isinstance(messages, str | bytes | Mapping) or not hasattr(messages, "__iter__"):
        raise InvalidMessagesError('messages must be a list of {"role", "content"} mappings')
    cleaned = [_clean(i, message) for i, message in enumerate(messages)]
    if not cleaned:
        raise InvalidMessagesError("messages must not be empty")
    return cleaned


def _clean(index: int, message: object) -> dict[str, Any]:
    if not isinstance(message, Mapping):
        raise InvalidMessagesError(f"message {index} is not a mapping but {type(message).__name__}")
    role = message.get("role")
    if not isinstance(role, str) or role not in ROLES:
        raise InvalidMessagesError(f"message {index} has role {role!r}; known roles: {', '.join(sorted(ROLES))}")
    if too_deep(message):
        raise InvalidMessagesError(f"message {index} is nested deeper than {MOST_NESTED} levels: flatten it")
    calls = message.get("tool_calls") or _of_function_call(message.get("function_call"))
    thoughts, content = _parts(index, message)
    if content is None and (calls or thoughts):
        content = ""
    if not isinstance(content, str):
        raise InvalidMessagesError(f"message {index} has content of type {type(content).__name__}; it must be text")
    rest = {k: v for k, v in message.items() if k not in (*THOUGHT_FIELDS, "tool_calls", "function_call")}
    cleaned = {**rest, "content": content}
    if thoughts:
        cleaned[THOUGHTS] = thoughts
    if calls:
        cleaned["tool_calls"] = _clean_calls(index, calls)
    return cleaned


def _parts(index: int, message: Mapping[str, Any]) -> tuple[str, Any]:
    """Thoughts and content of a message."""
    thoughts = [t for field in THOUGHT_FIELDS if isinstance(t := message.get(field), str) and t][:1]
    content = message.get("content")
    if not isinstance(content, list | tuple):
        return "".join(thoughts), content
    texts: list[str] = []
    for part in content:
        kind = part.get("type") if isinstance(part, Mapping) else None
        text = part.get("text" if kind == "text" else str(kind)) if isinstance(part, Mapping) else None
        if kind not in ("text", *THOUGHT_PARTS) or not isinstance(text, str):
            raise InvalidMessagesError(f"message {index} has parts other than text, which this model cannot read")
        (texts if kind == "text" else thoughts).append(text)
    return "".join(thoughts), "".join(texts)


def _of_function_call(call: object) -> list[dict[str, Any]]:
    """A call in the form that came before `tool_calls`."""
    return [{"function": call}] if isinstance(call, Mapping) else []


def _clean_calls(index: int, calls: object) -> list[dict[str, Any]]:
    """Calls in OpenAI's form, with arguments as the mapping that chat templates want."""
    if not isinstance(calls, list | tuple):
        raise InvalidMessagesError(f"message {index} has tool_calls of type {type(calls).__name__}; it must be a list")
    cleaned = []
    for call in calls:
        function = call.get("function") if isinstance(call, Mapping) else None
        name = function.get("name") if isinstance(function, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(name, str):
            raise InvalidMessagesError(
                f'message {index} has a tool call that is not {{"function": {{"name": ..., "arguments": ...}}}}'
            )
        arguments = read_arguments(function.get("arguments"))
        identifier = str(call.get("id") or "")
        cleaned.append({"id": identifier, "type": "function", "function": {"name": name, "arguments": arguments}})
    return cleaned


def read_arguments(value: object) -> dict[str, Any] | str:
    """The mapping that a call's arguments are, or their text where they are none: cut, malformed or no object."""
    if value is None or value == "":
        return {}
    if isinstance(value, Mapping):
        return dict(value)
    if not isinstance(value, str):
        return json.dumps(value, ensure_ascii=False, default=str)
    try:
        read = json.loads(value)
    except (ValueError, RecursionError):
        return value
    if read is None:
        return {}
    return read if isinstance(read, dict) and not too_deep(read) else value
