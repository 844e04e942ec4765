"""The contract of a way of writing tool calls, and the reader of the JSON object that most of them use."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Protocol

from semshare_agents.values import ToolCall

Schema = Mapping[str, Any]
Schemas = Mapping[str, Schema]
JsonTerm = Callable[[Schema], str]
Literal = Callable[[str], str]


class CallReader(Protocol):
    """Reads one call, piece by piece.

    Attributes:
        name: The tool's name, empty until it is known.
        done: The call is complete.
        bad: What was read is no call.
    """

    name: str
    done: bool
    bad: bool

    def push(self, text: str) -> tuple[str, str]:
        """Read on.

        Returns:
            What is new of the arguments' JSON text, and what is left of `text` once the call is complete or bad.
        """
        ...


class ToolFormat(ABC):
    """A way of writing tool calls.

    An answer with calls is `begin`, calls with `separator` between them, then `end`; a call is its arguments, as JSON
    unless the format has a way of its own, between `before(name)` and `after`.

    Attributes:
        trigger: The text by which a call is recognised; `begin` starts with it.
        begin: What stands before the first call.
        separator: What stands between two.
        end: What stands after the last.
        after: What stands after a call's arguments.
        opening: What each call begins with, after `trigger` and `marks`; empty where that is its name.
        marks: What else may stand before, between or after calls and is no text.
        only_at_start: Whether an answer that does not begin with a call is text.
    """

    trigger: ClassVar[str]
    begin: ClassVar[str]
    separator: ClassVar[str]
    end: ClassVar[str]
    after: ClassVar[str]
    opening: ClassVar[str] = "{"
    marks: ClassVar[tuple[str, ...]] = ()
    only_at_start: ClassVar[bool] = False

    @classmethod
    @abstractmethod
    def fits(cls, template: str) -> bool:
        """Whether a model with this chat template writes calls so."""

    @abstractmethod
    def before(self, name: str) -> str:
        """What stands before a call's arguments."""

    @abstractmethod
    def reader(self, schemas: Schemas) -> CallReader:
        """Reads a call from its first character after `trigger` and `marks`.

        Args:
            schemas: JSON schemas of the tools' arguments by the tools' names.
        """

    def spelled(self, arguments: str) -> str:
        """A call's arguments, given as JSON text, as the model would write them."""
        return arguments

    def rules(self, name: str, schema: Schema, json_term: JsonTerm, literal: Literal) -> list[str]:
        """Grammar rules of a tool's arguments.

        Args:
            name: Of the rule that stands for all of them; further rules begin with it.
            schema: JSON schema of the arguments.
            json_term: A rule's term for JSON of a schema.
            literal: A rule's terms for a text.
        """
        return [f"{name}: {json_term(schema)}"]

    def written(self, calls: Sequence[ToolCall]) -> str:
        """Calls as the model would write them."""
        texts = (self.before(call.name) + self.spelled(call.arguments) + self.after for call in calls)
        return self.begin + self.separator.join(texts) + self.end

    @property
    def written_marks(self) -> str:
        """All marks of calls, in one text."""
        return "\n".join((self.begin, self.separator, self.end, self.before("x"), self.after, *self.marks))


class Nesting:
    """Follows JSON text: how deep it is, and whether it is inside a string."""

    def __init__(self) -> None:
        self.depth = 0
        self.in_string = False
        self._escaped = False

    def take(self, letter: str) -> None:
        """Go on by a character."""
        if self.in_string:
            self.in_string = self._escaped or letter != '"'
            self._escaped = letter == "\\" and not self._escaped
        elif letter == '"':
            self.in_string = True
        elif letter in "{[":
            self.depth += 1
        elif letter in "}]":
            self.depth -= 1


class ObjectReader:
    """Reads a call that is a JSON object with the tool's name and its arguments, in any order and spacing.

    Args:
        keys: Names under which the arguments may stand.
    """

    def __init__(self, keys: tuple[str, ...] = ("arguments", "parameters")):
        self._keys = keys
        self.name = ""
        self.done = self.bad = False
        self._nesting = Nesting()
        self._key: str | None = None
        self._value = ""
        """Of a key, or of any value but the arguments."""
        self._arguments = ""
        """What came before the name."""

    def push(self, text: str) -> tuple[str, str]:
        """See `CallReader.push`."""
        rest = ""
        for at, letter in enumerate(text):
            self._take(letter)
            if self.done or self.bad:
                rest = text[at + 1 :]
                break
        if not self.name:
            return "", rest
        arguments, self._arguments = self._arguments, ""
        return arguments, rest

    def _take(self, letter: str) -> None:
        nesting = self._nesting
        inside, before = nesting.in_string, nesting.depth
        nesting.take(letter)
        if not before:
            self.bad = letter != "{"
        elif not nesting.depth:
            self._end_value()
            self.done = not self.bad and bool(self.name)
            self.bad = not self.done
        elif not inside and before == 1 and letter == ",":
            self._end_value()
        elif not inside and before == 1 and letter == ":":
            self._key, self._value = _text(self._value), ""
            self.bad = self._key is None
        elif self._key not in self._keys:
            self._value += letter
        elif inside or before > 1 or not letter.isspace():
            self._arguments += letter

    def _end_value(self) -> None:
        if self._key == "name":
            self.name = _text(self._value) or ""
            self.bad = not self.name
        self._key, self._value = None, ""


def _text(value: str) -> str | None:
    try:
        text = json.loads(value)
    except ValueError:
        return None
    return text if isinstance(text, str) else None
