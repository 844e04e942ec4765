"""Shapes in which a message with calls and its results can be brought to a template, from the plainest on.

Some templates drop text beside calls, some take one call a message, some want arguments as text, some know no calls.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from semshare_agents.messages.cleaning import THOUGHT_FIELDS, Chat
from semshare_agents.tools.base import ToolFormat
from semshare_agents.values import ToolCall

Message = dict[str, Any]
Results = Sequence[Message | None]

NO_RESULT = "(no result)"
"""Said of a call without a result before one that has its own: templates bind results by their order."""
RESULT_TAGS = ("<tool_response>", "</tool_response>")
"""Around a result that is told as the user's text."""

WRITER = json.JSONEncoder(ensure_ascii=False)
SYSTEM_TAGS = ("<system>", "</system>")
"""Around a system message that is told as the user's text."""


@dataclass(frozen=True)
class Shape:
    """A way to bring calls and their results.

    Attributes:
        made: Makes messages of a message with calls, its results and the model's way of writing calls.
        as_text: Whether arguments are JSON text instead of mappings.
        told: Whether calls and results are text of the messages, for templates that know neither.
    """

    made: Callable[[Message, Results, ToolFormat], Chat]
    as_text: bool = False
    told: bool = False

    def messages(self, call: Message, results: Results, form: ToolFormat) -> Chat:
        """The messages; results stand in the order of the calls."""
        return self.made(_with_texts(call) if self.as_text else call, _filled(call, results), form)


def _with_texts(call: Message) -> Message:
    calls = [{**c, "function": {**c["function"], "arguments": text_of(c)}} for c in call["tool_calls"]]
    return {**call, "tool_calls": calls}


def text_of(call: Message) -> str:
    """A call's arguments as text; broken ones are text already."""
    arguments = call["function"]["arguments"]
    return arguments if isinstance(arguments, str) else WRITER.encode(arguments)


def _filled(call: Message, results: Results) -> list[Message]:
    """Results in the order of the calls, each gap before a later one filled."""
    last = max((k for k, result in enumerate(results) if result is not None), default=-1)
    return [
        result or {"role": "tool", "tool_call_id": made["id"], "content": NO_RESULT}
        for made, result in zip(call["tool_calls"][: last + 1], results, strict=False)
    ]


def _whole(call: Message, results: Results, _: ToolFormat) -> Chat:
    """As it is."""
    return [call, *(r for r in results if r)]


def _apart(call: Message, results: Results, _: ToolFormat) -> Chat:
    """Text in a message before that with the calls."""
    return [*_said(call), {**call, "content": ""}, *(r for r in results if r)]


def _singly(call: Message, results: Results, _: ToolFormat) -> Chat:
    """Each call in a message of its own, followed by its result."""
    thoughts = {k: v for k, v in call.items() if k not in THOUGHT_FIELDS}
    out = _said(call)
    for k, made in enumerate(call["tool_calls"]):
        out.append({**(thoughts if k else call), "content": "", "tool_calls": [made]})
        out += [r for r in results[k : k + 1] if r]
    return out


def _said(call: Message) -> Chat:
    kept = {k: v for k, v in call.items() if k not in ("tool_calls", *THOUGHT_FIELDS)}
    return [kept] if call["content"] else []


def _told(call: Message, results: Results, form: ToolFormat) -> Chat:
    """Calls as the assistant's text, results as the user's."""
    calls = [ToolCall(made["id"], made["function"]["name"], text_of(made)) for made in call["tool_calls"]]
    text = form.written(calls)
    content = f"{call['content']}\n{text}" if call["content"] else text
    said = {**{k: v for k, v in call.items() if k != "tool_calls"}, "content": content}
    return [said, *([told_results([r for r in results if r])] if results else [])]


def told_results(results: Sequence[Message]) -> Message:
    """Results as a message of the user."""
    opening, closing = RESULT_TAGS
    texts = [f"{opening}\n{result['content']}\n{closing}" for result in results]
    return {"role": "user", "content": "\n".join(texts)}


def told_system(message: Message) -> Message:
    """A system message as a message of the user."""
    opening, closing = SYSTEM_TAGS
    return {"role": "user", "content": f"{opening}\n{message['content']}\n{closing}"}


SHAPES = (
    Shape(_whole),
    Shape(_whole, as_text=True),
    Shape(_apart),
    Shape(_apart, as_text=True),
    Shape(_singly),
    Shape(_singly, as_text=True),
    Shape(_told, told=True),
)
