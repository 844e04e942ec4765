"""What a fake adapter says, and the words that stand for its tokens."""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from semshare_agents.tools.hermes import Hermes
from semshare_agents.values import CallPart, ToolCall

Said = str | ToolCall | Sequence[str | ToolCall] | BaseException
"""One answer: text, a tool call, several of both (text first), or what is raised instead of an answer."""
Answers = str | Iterable[Said] | Callable[[list[dict[str, Any]]], Said]
"""An answer for every call, the answers to the calls in their order, or a function of the messages."""

END = "<end>"
CALLS = Hermes()
"""How calls are written in an answer's `raw` and in a history."""


def words(text: str) -> list[str]:
    """A text cut before the space of each word; the parts make up the text."""
    return re.findall(r"\s*\S+|\s+", text)


def ids(parts: Iterable[str]) -> list[int]:
    """Token ids of words: equal words have equal ids, on every machine."""
    return [zlib.crc32(part.encode()) & 0x7FFFFFFF for part in parts]


def tool_call(name: str, /, **arguments: Any) -> ToolCall:
    """A call of a tool for a script; its id is given to it when it is said."""
    return ToolCall("", name, json.dumps(arguments, ensure_ascii=False))


def echo(messages: list[dict[str, Any]]) -> str:
    """The last message's text: what a fake without a script answers."""
    return str(messages[-1]["content"])


class Script:
    """Answers, one a call.

    Args:
        answers: See `Answers`.
    """

    def __init__(self, answers: Answers):
        self._answer = answers if callable(answers) else None
        fixed = [answers] if isinstance(answers, str) else answers
        self._left = None if callable(fixed) else iter(fixed)
        self._always = answers if isinstance(answers, str) else None
        self._given = 0

    def next(self, messages: list[dict[str, Any]]) -> tuple[str, list[ToolCall]]:
        """The text and the calls of the next answer.

        Raises:
            AssertionError: there are no more.
            BaseException: the script says so.
        """
        said = self._said(messages)
        if isinstance(said, BaseException):
            raise said
        parts = [said] if isinstance(said, str | ToolCall) else list(said)
        calls = [part for part in parts if isinstance(part, ToolCall)]
        return "".join(part for part in parts if isinstance(part, str)), calls

    def _said(self, messages: list[dict[str, Any]]) -> Said:
        if self._answer is not None:
            return self._answer(messages)
        if self._always is not None:
            return self._always
        assert self._left is not None
        for said in self._left:
            self._given += 1
            return said
        raise AssertionError(f"FakeLLM has no answer left: its script holds {self._given}; asked was {messages[-1]!r}")


@dataclass(frozen=True)
class Token:
    """One drawn token.

    Attributes:
        raw: What it adds to the answer as it is written.
        text: What of it is text.
        calls: What of it is a call.
    """

    raw: str
    text: str = ""
    calls: tuple[CallPart, ...] = ()


def drawn(text: str, calls: Sequence[ToolCall], stop: Sequence[str]) -> tuple[list[Token], str]:
    """The tokens of an answer, and the stop string that ended it, if one did; calls after one are never written."""
    found = [(at, string) for string in stop if (at := text.find(string)) >= 0]
    if found:
        at, string = min(found)
        return [Token(part, part) for part in words(text[:at])], string
    tokens = [Token(part, part) for part in words(text)]
    for index, call in enumerate(calls):
        before = (CALLS.separator if index else CALLS.begin) + CALLS.before(call.name)
        tokens.append(Token(before, calls=(CallPart(index, call.id, call.name),)))
        tokens += [Token(part, calls=(CallPart(index, arguments=part),)) for part in words(call.arguments)]
        tokens.append(Token(CALLS.after + (CALLS.end if index == len(calls) - 1 else "")))
    return tokens, ""


def prompt_words(messages: Sequence[dict[str, Any]], tools: Sequence[dict[str, Any]]) -> list[str]:
    """A prompt as words, up to where the answer begins; a conversation that goes on has what came before as prefix."""
    out = [part for tool in tools for part in words(json.dumps(tool))]
    for message in messages:
        calls = [_given(call["function"]) for call in message.get("tool_calls") or ()]
        written = str(message["content"]) + (CALLS.written(calls) if calls else "")
        out += [f"<{message['role']}>", *words(written), END]
    return [*out, "<assistant>"]


def _given(function: dict[str, Any]) -> ToolCall:
    arguments = function["arguments"]
    text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    return ToolCall("", function["name"], text)
