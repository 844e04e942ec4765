"""A caller's messages in one form: text, thoughts, calls with their arguments, results with the call they answer."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from semshare_agents.errors import InvalidMessagesError
from semshare_agents.messages.parts import Parts, as_text, read_parts
from semshare_agents.tools.depth import MOST_NESTED, too_deep
from semshare_agents.values import Messages

Chat = list[dict[str, Any]]

ROLES = frozenset({"system", "developer", "user", "assistant", "tool", "function", "ipython"})
RESULTS = frozenset({"tool", "function", "ipython"})
"""Roles of a tool's result; `function` and `ipython` are older names of `tool`."""
PLAIN = frozenset({"role", "content", "name", "tool_call_id"})
"""Fields that are as they should be where they are text."""

THOUGHTS = "reasoning_content"
"""The field in which a cleaned message has its thoughts."""
THOUGHT_FIELDS = (THOUGHTS, "reasoning", "thinking")
THOUGHT_LISTS = ("reasoning_details", "thinking_blocks")
"""Fields in which other APIs have thoughts as lists of parts."""
ANSWERED_IDS = ("tool_call_id", "tool_use_id", "call_id")
"""Names of the field in which a result says which call it answers."""
READER = json.JSONDecoder()
READ = frozenset(
    {*THOUGHT_FIELDS, *THOUGHT_LISTS, *ANSWERED_IDS, "tool_calls", "function_call", "refusal", "audio", "cache_control"}
)
"""Fields that are read here, or say nothing to a model."""


class Cleaned(dict[str, Any]):
    """A cleaned message.

    Attributes:
        at: Which of the caller's messages it comes from.
    """

    __slots__ = ("at",)

    def __init__(self, at: int, message: Mapping[str, Any]):
        super().__init__(message)
        self.at = at


def place(messages: Chat, index: int) -> int:
    """Which of the caller's messages a message comes from."""
    return getattr(messages[index], "at", index)


def clean_messages(messages: Messages) -> Chat:
    """Validate a message list; lists of parts become one text, thoughts stand in `THOUGHTS`.

    Arguments of calls become the mapping that they say; those that say none stay text. Results that stand as parts in
    a user's message become messages of their own before what it says besides.

    Raises:
        InvalidMessagesError: it is empty, or an entry is no mapping with a known role and text content.
    """
    if isinstance(messages, str | bytes | Mapping) or not hasattr(messages, "__iter__"):
        raise InvalidMessagesError('messages must be a list of {"role", "content"} mappings')
    cleaned: Chat = []
    for index, message in enumerate(messages):
        if _is_plain(message):
            _role(index, message)
            cleaned.append(Cleaned(index, message))
        else:
            cleaned += (Cleaned(index, made) for made in _clean(index, message))
    if not cleaned:
        raise InvalidMessagesError("messages must not be empty")
    return cleaned


def _is_plain(message: object) -> bool:
    """Whether there is nothing to do for a message but to look at its role."""
    if type(message) is not dict or "content" not in message or not message.keys() <= PLAIN:
        return False
    return all(type(value) is str for value in message.values())


def _role(index: int, message: Mapping[str, Any]) -> str:
    role = message.get("role")
    if not isinstance(role, str) or role not in ROLES:
        raise InvalidMessagesError(f"message {index} has role {role!r}; known roles: {', '.join(sorted(ROLES))}")
    return role


def _clean(index: int, message: object) -> Iterator[dict[str, Any]]:
    if not isinstance(message, Mapping):
        raise InvalidMessagesError(f"message {index} is not a mapping but {type(message).__name__}")
    role = _role(index, message)
    if _may_be_deep(message) and too_deep(message):
        raise InvalidMessagesError(f"message {index} is nested deeper than {MOST_NESTED} levels: flatten it")
    content = message.get("content")
    parts = read_parts(index, content) if isinstance(content, list | tuple) else Parts()
    calls = _clean_calls(index, [*_calls(index, message), *_beside(message, parts.calls)])
    _check_places(index, role, calls, parts)
    for made in parts.results:
        identifier = str(made["tool_call_id"] or "")
        yield {"role": "tool", "content": made["content"], **({"tool_call_id": identifier} if identifier else {})}
    text = _text(index, role, message, parts.text if isinstance(content, list | tuple) else content)
    if parts.results and not text:
        return
    yield _put_together(index, role, message, text, parts, calls)


def _may_be_deep(message: Mapping[str, Any]) -> bool:
    """Whether a message has more than the three levels of calls whose arguments are text; that is soon seen."""
    for value in message.values():
        if type(value) is str or value is None:
            continue
        for part in value if type(value) is list else (value,):
            if type(part) is not dict:
                return True
            inner = [i for i in part.values() if type(i) is not str and i is not None]
            if any(type(i) is not dict or any(type(v) is not str for v in i.values()) for i in inner):
                return True
    return False


def _put_together(
    index: int, role: str, message: Mapping[str, Any], text: str, parts: Parts, calls: list[dict[str, Any]]
) -> dict[str, Any]:
    rest = {k: v for k, v in message.items() if k not in READ and v is not None}
    cleaned = {**rest, "role": role, "content": text}
    if role == "assistant" and (thoughts := _thoughts(index, message, parts)):
        cleaned[THOUGHTS] = thoughts
    if calls:
        cleaned["tool_calls"] = calls
    answered = next((value for name in ANSWERED_IDS if (value := message.get(name))), None)
    if role in RESULTS and answered is not None:
        cleaned["tool_call_id"] = str(answered)
    return cleaned


def _check_places(index: int, role: str, calls: list[dict[str, Any]], parts: Parts) -> None:
    """Calls are an assistant's, results a user's."""
    if calls and role != "assistant":
        raise InvalidMessagesError(f"message {index} of role {role!r} has tool_calls; only an assistant calls tools")
    if parts.results and role != "user":
        raise InvalidMessagesError(f"message {index} of role {role!r} has results as parts; only a user's message may")


# --- text and thoughts


def _text(index: int, role: str, message: Mapping[str, Any], content: object) -> str:
    """What a message says; an assistant may have said nothing, or said no, or spoken aloud."""
    if role == "assistant":
        audio = message.get("audio")
        spoken = audio.get("transcript") if isinstance(audio, Mapping) else None
        if not content and audio and not isinstance(spoken, str):
            raise InvalidMessagesError(f"message {index}, content: this model cannot read audio without a transcript")
        said = [t for t in (content, message.get("refusal"), spoken) if t]
        content = content if any(not isinstance(t, str) for t in said) else "\n".join(map(str, said))
    elif role in RESULTS and not isinstance(content, str):
        # A tool that gives nothing back has run all the same.
        return "" if content is None else as_text(content)
    if not isinstance(content, str):
        raise InvalidMessagesError(f"message {index} has content of type {type(content).__name__}; it must be text")
    return content


def _thoughts(index: int, message: Mapping[str, Any], parts: Parts) -> str:
    """The thoughts of a message, in the first of its forms that has any."""
    said = next((t for name in THOUGHT_FIELDS if isinstance(t := message.get(name), str) and t), "")
    if said or any(parts.thoughts):
        return said or "\n".join(thought for thought in parts.thoughts if thought)
    for name in THOUGHT_LISTS:
        texts = [_thought(part) for part in message.get(name) or () if isinstance(part, Mapping)]
        if any(texts):
            return "\n".join(text for text in texts if text)
    return ""


def _thought(part: Mapping[str, Any]) -> str:
    """A thought of a list; what is encrypted is none."""
    return next((t for key in ("text", "summary", "thinking") if isinstance(t := part.get(key), str)), "")


# --- calls


def _calls(index: int, message: Mapping[str, Any]) -> list[Any]:
    """The calls of a message, also in the form that came before `tool_calls`."""
    calls = message.get("tool_calls")
    if not calls:
        older = message.get("function_call")
        return [{"function": older}] if isinstance(older, Mapping) else []
    if not isinstance(calls, list | tuple):
        raise InvalidMessagesError(f"message {index} has tool_calls of type {type(calls).__name__}; it must be a list")
    return list(calls)


def _beside(message: Mapping[str, Any], calls: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Calls that stand in the content alone, not in `tool_calls` once more."""
    given = message.get("tool_calls")
    known = {call.get("id") for call in given if isinstance(call, Mapping)} if isinstance(given, list | tuple) else ()
    return [call for call in calls if call["id"] not in known]


def _clean_calls(index: int, calls: list[Any]) -> list[dict[str, Any]]:
    """Calls in OpenAI's form, with arguments as the mapping that chat templates want."""
    cleaned = []
    for call in calls:
        function = _called(call)
        name = function.get("name")
        if not isinstance(name, str) or not name:
            raise InvalidMessagesError(
                f'message {index} has a tool call that is not {{"function": {{"name": ..., "arguments": ...}}}}'
            )
        identifier = str(call.get("id") or call.get("call_id") or "")
        arguments = read_arguments(function.get("arguments"))
        cleaned.append({"id": identifier, "type": "function", "function": {"name": name, "arguments": arguments}})
    return cleaned


def _called(call: object) -> Mapping[str, Any]:
    """Name and arguments of a call: of a function, of a tool that takes a text, or as they stand in a part."""
    if not isinstance(call, Mapping):
        return {}
    custom = call.get("custom")
    if isinstance(custom, Mapping):
        return {"name": custom.get("name"), "arguments": {"input": custom.get("input") or ""}}
    function = call.get("function")
    if function is None and "name" in call:
        return {"name": call["name"], "arguments": call.get("arguments", call.get("args", call.get("input")))}
    return function if isinstance(function, Mapping) else {}


def read_arguments(value: object) -> dict[str, Any] | str:
    """The mapping that a call's arguments are, or their text where they are none: cut, malformed or no object."""
    if value is None or value == "":
        return {}
    if isinstance(value, Mapping):
        return dict(value)
    if not isinstance(value, str):
        return as_text(value)
    try:
        read = READER.decode(value)
    except (ValueError, RecursionError):
        return value
    if read is None:
        return {}
    deep = value.count("{") + value.count("[") > MOST_NESTED and too_deep(read)
    return read if isinstance(read, dict) and not deep else value
