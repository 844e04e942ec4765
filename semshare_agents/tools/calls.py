"""Tool calls out of a growing answer."""

from __future__ import annotations

import secrets

from semshare_agents.tools.base import CallReader, ToolFormat
from semshare_agents.values import CallPart, ToolCall

ID_BYTES = 5
ID_LETTERS = 9
"""Mistral's templates want ids of exactly nine letters and digits; other templates take any."""


class CallStream:
    """Parts an answer into text and tool calls while it grows; what may begin a call is held back.

    It is in one of three states: in text, between calls (after a trigger or a call), or in a call.

    Args:
        form: How the model writes calls.
    """

    def __init__(self, form: ToolFormat):
        self._form = form
        self._pending = ""
        self._unsure = ""
        """What was read of a call that has no name yet, and may be text after all."""
        self._between = form.only_at_start
        self._reader: CallReader | None = None
        self._calls: list[ToolCall] = []

    @property
    def calls(self) -> tuple[ToolCall, ...]:
        """The calls so far; where the answer was cut off, the last one's arguments are too."""
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
            return "" if self._reader.name else self._unsure
        rest, self._pending = self._pending, ""
        if not self._between:
            return rest
        return self._given_up() + rest if self._is_text() else ""

    def _text(self) -> str:
        """Release text up to where a call may begin."""
        trigger, pending = self._form.trigger, self._pending
        at = pending.find(trigger) if trigger else -1
        if at >= 0:
            self._pending, self._unsure, self._between = pending[at + len(trigger) :], trigger, True
            return pending[:at]
        cut = len(pending) - _begun(pending, trigger)
        self._pending = pending[cut:]
        return pending[:cut]

    def _seek(self) -> str:
        """Pass over marks to the next call; where anything else stands, text goes on."""
        form, pending = self._form, self._pending.lstrip()
        skipped = self._pending[: len(self._pending) - len(pending)]
        marks = [mark for mark in (form.trigger, *form.marks) if mark]
        mark = next((m for m in marks if pending.startswith(m)), "")
        if mark or not pending:
            self._unsure += skipped + mark
            self._pending = pending[len(mark) :]
        elif any(m.startswith(pending) for m in marks):
            pass
        elif pending.startswith(form.opening) and (form.opening or form.trigger in self._unsure):
            self._unsure += skipped
            self._pending, self._reader = pending, form.reader()
        else:
            self._between = False
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
            self._calls.append(ToolCall(identifier, reader.name, ""))
            parts.append(CallPart(len(self._calls) - 1, identifier, reader.name))
        elif not reader.name:
            self._unsure += read
        if arguments:
            call = self._calls[-1]
            self._calls[-1] = ToolCall(call.id, call.name, call.arguments + arguments)
            parts.append(CallPart(len(self._calls) - 1, arguments=arguments))
        if reader.done or reader.bad:
            self._reader, self._between = None, reader.done
            if not reader.name:
                text, self._unsure = self._unsure, ""
                return text
            if not self._calls[-1].arguments:
                call = self._calls[-1]
                self._calls[-1] = ToolCall(call.id, call.name, "{}")
                parts.append(CallPart(len(self._calls) - 1, arguments="{}"))
        return ""


def _begun(text: str, mark: str) -> int:
    """Length of the longest end of `text` that begins `mark`."""
    return next((n for n in range(min(len(mark) - 1, len(text)), 0, -1) if text.endswith(mark[:n])), 0)
