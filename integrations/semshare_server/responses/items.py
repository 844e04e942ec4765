"""Input items as messages in the form of chat completions, and tools likewise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from semshare_server.errors import APIError
from semshare_server.forms import usable

Item = Mapping[str, Any]
TEXTS = {"input_text": "text", "output_text": "text", "text": "text", "refusal": "refusal"}
"""Which field of a part has its text, by the part's type."""
ROLES = ("user", "assistant", "system", "developer")


def wrong(place: str, problem: str) -> APIError:
    """What is wrong with a part of the body."""
    return APIError(400, f"{place}: {problem}", "invalid_request", place)


def referenced(items: str | Sequence[Item]) -> list[str]:
    """Ids of items of earlier answers that stand in the place of these."""
    return [] if isinstance(items, str) else [str(item.get("id")) for item in items if _is_reference(item)]


def _is_reference(item: Item) -> bool:
    return item.get("type") == "item_reference" or {k for k, v in item.items() if v is not None} == {"id"}


def input_messages(items: str | Sequence[Item], known: Mapping[str, Item]) -> list[dict[str, Any]]:
    """Input as messages.

    Args:
        items: A text of the user, or items.
        known: Items of earlier answers by their ids.

    Raises:
        APIError: an item is malformed, or cannot be told a model that reads text.
    """
    if isinstance(items, str):
        return [{"role": "user", "content": items}]
    messages = _Messages()
    for at, item in enumerate(items):
        place = f"input.{at}"
        if _is_reference(item):
            found = known.get(str(item.get("id")))
            if found is None:
                raise wrong(place, f"there is no item {item.get('id')!r}: its response is not stored; send the item")
            item = found
        messages.add(item, place)
    return messages.done()


class _Messages:
    """Messages that grow item by item. What an assistant thinks, says and calls in a row is one message."""

    def __init__(self) -> None:
        self._messages: list[dict[str, Any]] = []
        self._thoughts = ""

    def add(self, item: Item, place: str) -> None:
        kind = item.get("type", "message")
        if kind == "message":
            self._said(item, place)
        elif kind == "function_call":
            self._called(item, place)
        elif kind == "function_call_output":
            content = _content(item.get("output"), f"{place}.output")
            self._append({"role": "tool", "tool_call_id": _name(item, "call_id", place), "content": content})
        elif kind == "reasoning":
            self._thoughts += _thoughts(item)
        else:
            raise wrong(place, f"this server knows no items of type {kind!r}: leave it out")

    def done(self) -> list[dict[str, Any]]:
        if self._thoughts:
            self._append({"role": "assistant", "content": ""})
        return self._messages

    def _append(self, message: dict[str, Any]) -> None:
        if self._thoughts and message["role"] == "assistant":
            message["reasoning_content"], self._thoughts = self._thoughts, ""
        self._messages.append(message)

    def _said(self, item: Item, place: str) -> None:
        role = item.get("role")
        if role not in ROLES:
            raise wrong(f"{place}.role", f"must be one of {', '.join(ROLES)}, not {role!r}")
        self._append({"role": role, "content": _content(item.get("content"), f"{place}.content")})

    def _called(self, item: Item, place: str) -> None:
        identifier, name, arguments = (_name(item, field, place) for field in ("call_id", "name", "arguments"))
        call = {"id": identifier, "type": "function", "function": {"name": name, "arguments": arguments}}
        if not self._messages or self._messages[-1]["role"] != "assistant" or self._thoughts:
            self._append({"role": "assistant", "content": ""})
        self._messages[-1].setdefault("tool_calls", []).append(call)


def _name(item: Item, field: str, place: str) -> str:
    value = item.get(field)
    if not isinstance(value, str):
        raise wrong(f"{place}.{field}", f"must be text, not {type(value).__name__}")
    return value


def _content(content: object, place: str) -> str | list[dict[str, str]]:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise wrong(place, "must be a text or a list of parts")
    texts = [_text(part, f"{place}.{at}") for at, part in enumerate(content)]
    return texts[0] if len(texts) == 1 else [{"type": "text", "text": text} for text in texts]


def _text(part: object, place: str) -> str:
    kind = part.get("type") if isinstance(part, Mapping) else None
    text = part.get(TEXTS[kind]) if isinstance(part, Mapping) and kind in TEXTS else None
    if not isinstance(text, str):
        raise wrong(place, f"this model reads text alone, not {kind!r}")
    return text


def _thoughts(item: Item) -> str:
    """The text of a reasoning item; what is encrypted elsewhere nobody can read here."""
    parts = item.get("content") or item.get("summary") or ()
    texts = [part.get("text") for part in parts if isinstance(part, Mapping)] if isinstance(parts, list) else []
    return "\n".join(text for text in texts if isinstance(text, str))


def function_tools(tools: Sequence[Item] | None) -> tuple[list[dict[str, Any]], list[str]]:
    """Tools in the form of chat completions, and the names of those that are passed over: odd ones, and other kinds.

    Raises:
        InvalidToolsError: there are functions, and none can be called.
    """
    functions = [tool for tool in tools or () if tool.get("type") == "function"]
    others = [str(tool.get("name") or tool.get("type")) for tool in tools or () if tool.get("type") != "function"]
    known, odd = usable(functions)
    return known, others + [name_at(functions, place) for place in odd]


def name_at(tools: Sequence[Item], place: str) -> str:
    """The name of a tool, told by its place, `tools.3`."""
    return str(tools[int(place.rpartition(".")[2])].get("name"))


def chosen_tools(choice: str | Item | None, tools: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], str | None]:
    """The tools that may be called, and which of them must be, in the adapter's words.

    Raises:
        APIError: a tool is chosen that is not there, or that is no function.
    """
    if isinstance(choice, Mapping):
        kind = choice.get("type")
        if kind == "function":
            choice = str(choice.get("name"))
        elif kind == "allowed_tools":
            allowed = choice.get("tools")
            if not isinstance(allowed, list):
                raise wrong("tool_choice.tools", "must be a list of functions")
            named = [tool.get("name") for tool in allowed if isinstance(tool, Mapping)]
            tools = [tool for tool in tools if tool["function"]["name"] in named]
            choice = str(choice.get("mode") or "auto")
        else:
            raise wrong("tool_choice", f"this server has no tools of type {kind!r}: choose a function")
    if choice not in (None, "none", "auto") and not tools:
        raise wrong("tool_choice", "asks for a call, but there are no functions among the tools")
    return tools, choice if tools else None
