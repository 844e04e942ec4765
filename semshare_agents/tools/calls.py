"""Tool calls out of a growing answer."""

from __future__ import annotations

import secrets
from dataclasses import replace

from semshare_agents.tools.base import CallReader, Nesting, Schemas, ToolFormat
from semshare_agents.tools.drafts import TAGS, FreeText, Pairs
from semshare_agents.values import CallPart, ToolCall

ID_BYTES = 5
ID_LETTERS = 9
"""Mistral's templates want ids of exactly nine letters and digits; other templates take any."""


class CallStream:
    """Parts an answer into text and tool calls while it grows; what may begin a call is held back.

    It is in one of three states: in text, between calls (after a trigger or a call), or in a call.

    Args:
        form: How the model writes calls.
        schemas: JSON schemas of the tools' arguments by the tools' names.
        thoughts: Marks between which the model thinks; a call there is only a draft.
        closing: The mark that closes the thought in which the answer begins; empty for none.
        forced: Whether the answer can be nothing but calls, so that what begins one is no text.
    """

    def __init__(
        self,
        form: ToolFormat,
        schemas: Schemas | None = None,
        thoughts: Pairs = (),
        closing: str = "",
        forced: bool = False,
    ):
        self._form = form
        self._schemas = schemas or {}
        self._forced = forced
        self._free = FreeText(form, tuple(thoughts) or TAGS, closing)
        self._pending = ""
        self._unsure = ""
        """What was read of a call that has no name yet, and may be text after all."""
        self._between = False
        self._reader: CallReader | None = None
        self._calls: list[ToolCall] = []

    @property
    def calls(self) -> tuple[ToolCall, ...]:
        """The calls so far; where the answer was cut off, the last one is not whole."""
        return tuple(self._calls)

    def push(self, text: str) -> tuple[str, tuple[CallPart, ...]]:
        """Go on by a piece of the answer.

        Returns:
            What is certain to be text, and what is new of calls.
        """
        self._pending += text
        out, parts = "", list[CallPart]()
        while self._pending:
            before = (self._pending, self._between, self._reader)
            if self._reader is not None:
                out += self._read(self._reader, parts)
            elif self._between:
                out += self._seek()
            else:
                out += self._text()
            if before == (self._pending, self._between, self._reader):
                break
        return out, tuple(parts)

    def finish(self) -> str:
        """What is text of what was held back, once nothing follows."""
        if self._reader is not None:
            return "" if self._reader.name or self._forced else self._unsure
        rest, self._pending = self._pending, ""
        if not self._between:
            held = self._free.finish() + rest
            # A forced call that was cut off inside its first mark is none, and no text either.
            return "" if self._forced and self._form.trigger.startswith(held.strip()) else held
        return self._given_up() + rest if self._is_text() and not self._forced else ""

    def _text(self) -> str:
        """Release text up to where a call begins."""
        given, self._pending = self._pending, ""
        text, found = self._free.push(given)
        if found:
            self._pending, self._unsure, self._between = self._free.rest, self._form.trigger, True
        return text

    def _seek(self) -> str:
        """Pass over marks to the next call; where anything else stands, text goes on."""
        form, pending = self._form, self._pending.lstrip()
        skipped = self._pending[: len(self._pending) - len(pending)]
        marks = [mark for mark in (form.trigger, *form.marks) if mark]
        mark = next((m for m in marks if pending.startswith(m)), "")
        if mark or not pending:
            self._unsure += skipped + mark
            self._pending = pending[len(mark) :]
        elif any(m.startswith(pending) for m in (*marks, form.opening)) and pending != form.opening:
            pass
        elif pending.startswith(form.opening) and (form.opening or form.trigger in self._unsure):
            self._unsure += skipped
            self._pending, self._reader = pending, form.reader(self._schemas)
        else:
            self._between = False
            self._free.ended()
            if not self._is_text():
                self._pending = pending
            return self._given_up()
        return ""

    def _is_text(self) -> bool:
        """Whether what was passed over since the last call is text, should no call follow."""
        trigger = self._form.trigger
        return not self._calls or bool(trigger and trigger in self._unsure)

    def _given_up(self) -> str:
        text, self._unsure = (self._unsure if self._is_text() else ""), ""
        return text

    def _read(self, reader: CallReader, parts: list[CallPart]) -> str:
        """Read on in a call; returns text where it turns out to be none."""
        named = reader.name
        arguments, rest = reader.push(self._pending)
        read = self._pending[: len(self._pending) - len(rest)]
        self._pending = rest
        if reader.name and not named:
            self._unsure = ""
            identifier = secrets.token_hex(ID_BYTES)[:ID_LETTERS]
            self._calls.append(ToolCall(identifier, reader.name, "", whole=False))
            parts.append(CallPart(len(self._calls) - 1, identifier, reader.name))
        elif not reader.name:
            self._unsure += read
        if arguments:
            call = self._calls[-1]
            self._calls[-1] = replace(call, arguments=call.arguments + arguments)
            parts.append(CallPart(len(self._calls) - 1, arguments=arguments))
        if reader.done or reader.bad:
            self._reader, self._between = None, reader.done
            if not reader.name:
                text, self._unsure = self._unsure, ""
                return text
            call = self._calls[-1]
            if not call.arguments:
                call = replace(call, arguments="{}")
                parts.append(CallPart(len(self._calls) - 1, arguments="{}"))
            self._calls[-1] = replace(call, whole=reader.done)
        return ""


def broken_off(arguments: str) -> str:
    """What makes the arguments of a call that was cut off unreadable, also for readers that complete JSON.

    LangChain and others close open brackets of streamed arguments, and would run half a call. A bracket that closes
    what is not open is an error to them too.
    """
    nesting, escaped, opened = Nesting(), False, ""
    for letter in arguments:
        inside = nesting.in_string
        nesting.take(letter)
        escaped = inside and nesting.in_string and letter == "\\" and not escaped
        if not inside and letter in "{[":
            opened += letter
        elif not inside and letter in "}]":
            opened = opened[:-1]
    quote = ("\\" if escaped else "") + '"' if nesting.in_string else ""
    return f"{quote}{'}' if opened.endswith('[') else ']'} (cut off)"
