"""The parts that a message's content may be a list of: text, thoughts, calls and results, in the forms of many APIs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from semshare_agents.errors import InvalidMessagesError

TEXTS = {"text": "text", "input_text": "text", "output_text": "text", "text-plain": "text", "refusal": "refusal"}
"""Types of parts that are text, and the key under which they have it."""
THOUGHTS = ("thinking", "reasoning")
"""Types of parts that are a thought, under the same key, as `text`, or as a list of texts."""
SEALED = ("redacted_thinking",)
"""Types of parts that only their maker can read."""
CALLS = {"tool_use": "input", "tool_call": "args"}
"""Types of parts that are a call, and the key under which they have its arguments."""
RESULT = "tool_result"
DOCUMENT = "document"
FAILED = "Error: "
"""Stands before the text of a result that its part calls an error."""


@dataclass
class Parts:
    """What a list of parts says.

    Attributes:
        texts: Its texts.
        thoughts: Its thoughts.
        calls: Calls, each with `id`, `name` and `arguments`.
        results: Results, each with `tool_call_id` and `content`.
    """

    texts: list[str] = field(default_factory=list)
    thoughts: list[str] = field(default_factory=list)
    calls: list[dict[str, Any]] = field(default_factory=list)
    results: list[dict[str, Any]] = field(default_factory=list)

    @property
    def text(self) -> str:
        """All texts, a line each, as other servers join them; empty ones are none."""
        return "\n".join(text for text in self.texts if text)


def read_parts(index: int, parts: Sequence[object]) -> Parts:
    """Sort a list of parts.

    Args:
        index: Of the message.
        parts: Its parts; a part that is null is none.

    Raises:
        InvalidMessagesError: one is no mapping, or of a type that no text model can read.
    """
    found = Parts()
    for part in parts:
        if part is not None:
            _read(index, part, found)
    return found


def _read(index: int, part: object, found: Parts) -> None:
    if not isinstance(part, Mapping):
        raise unreadable(index, type(part).__name__)
    kind = part.get("type", "text")
    if kind in TEXTS:
        found.texts.append(_texts(index, kind, part.get(TEXTS[kind])))
    elif kind in THOUGHTS:
        found.thoughts.append(_texts(index, kind, _first(part, kind, "text", "summary", "content")))
    elif kind in CALLS:
        found.calls.append({"id": part.get("id"), "name": part.get("name"), "arguments": part.get(CALLS[kind])})
    elif kind == RESULT:
        text = _texts(index, kind, part.get("content"))
        failed = part.get("is_error") is True and not text.lower().startswith("error")
        found.results.append({"tool_call_id": part.get("tool_use_id"), "content": FAILED * failed + text})
    elif kind == DOCUMENT:
        found.texts.append(_document(index, part))
    elif kind not in SEALED:
        raise unreadable(index, kind)


def _document(index: int, part: Mapping[str, Any]) -> str:
    """A document that is given as text, its title before it."""
    source = part.get("source")
    kind = source.get("type") if isinstance(source, Mapping) else None
    if not isinstance(source, Mapping) or kind not in ("text", "content"):
        raise unreadable(index, f"{DOCUMENT}, source {kind}")
    text = _texts(index, DOCUMENT, source.get("data" if kind == "text" else "content"))
    return "\n".join(t for t in (part.get("title"), part.get("context"), text) if isinstance(t, str) and t)


def _texts(index: int, kind: str, value: object) -> str:
    """A text, or a list of parts that are texts; null is empty."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if not isinstance(value, list | tuple):
        raise unreadable(index, f"{kind} without text")
    texts = []
    for part in value:
        inner = part.get("text") if isinstance(part, Mapping) else part
        if not isinstance(inner, str):
            raise unreadable(index, part.get("type") if isinstance(part, Mapping) else type(part).__name__)
        texts.append(inner)
    return "\n".join(text for text in texts if text)


def _first(part: Mapping[str, Any], *keys: str) -> object:
    return next((value for key in keys if (value := part.get(key))), None)


def unreadable(index: int, kind: object) -> InvalidMessagesError:
    """What is said of a part that is no text."""
    return InvalidMessagesError(
        f"message {index}, content: this model cannot read parts other than text, and one is of type {kind!r}"
    )


def as_text(value: object) -> str:
    """A value as JSON text, whatever it is."""
    return json.dumps(value, ensure_ascii=False, default=str)
