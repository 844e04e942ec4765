"""Calls after a control token, as Mistral's models write them: a list at first, later name and arguments."""

from __future__ import annotations

import json

from semshare_agents.tools.base import CallReader, Nesting, ObjectReader, Schemas, ToolFormat

TRIGGER = "[TOOL_CALLS]"
ARGUMENTS = "[ARGS]"
CALL_ID = "[CALL_ID]"


class MistralList(ToolFormat):
    """`[TOOL_CALLS] [{"name": ..., "arguments": {...}}, ...]`."""

    trigger = TRIGGER
    begin = f"{TRIGGER} ["
    separator = ", "
    end = "]"
    after = "}"
    marks = ("[", ",", "]")

    @classmethod
    def fits(cls, template: str) -> bool:
        """See `ToolFormat.fits`."""
        return TRIGGER in template and not Mistral.fits(template)

    def before(self, name: str) -> str:
        """See `ToolFormat.before`."""
        return f'{{"name": {json.dumps(name)}, "arguments": '

    def reader(self, schemas: Schemas) -> CallReader:
        """See `ToolFormat.reader`."""
        return ObjectReader()


class Mistral(ToolFormat):
    """`[TOOL_CALLS]name[ARGS]{...}`, one after the other."""

    trigger = TRIGGER
    begin = TRIGGER
    separator = TRIGGER
    end = ""
    after = ""
    opening = ""
    marks = (CALL_ID,)

    @classmethod
    def fits(cls, template: str) -> bool:
        """See `ToolFormat.fits`."""
        return TRIGGER in template and ARGUMENTS in template

    def before(self, name: str) -> str:
        """See `ToolFormat.before`."""
        return f"{name}{ARGUMENTS}"

    def reader(self, schemas: Schemas) -> CallReader:
        """See `ToolFormat.reader`."""
        return _NamedReader()


class _NamedReader:
    """Reads `name[ARGS]{...}`; an id between name and arguments is passed over."""

    def __init__(self) -> None:
        self.name = ""
        self.done = self.bad = False
        self._head = ""
        self._nesting = Nesting()

    def push(self, text: str) -> tuple[str, str]:
        """See `CallReader.push`."""
        if not self.name:
            head, found, text = (self._head + text).partition(ARGUMENTS)
            self._head = head
            if not found:
                return "", ""
            self.name = head.partition(CALL_ID)[0].strip()
            self.bad = not self.name
        for at, letter in enumerate(text):
            self._nesting.take(letter)
            if not self._nesting.depth and not letter.isspace():
                self.done = letter == "}"
                self.bad = not self.done
                return text[: at + 1], text[at + 1 :]
        return text, ""
