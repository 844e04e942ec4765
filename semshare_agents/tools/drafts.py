"""Where in a growing answer a call begins: not in a thought or a code block, where a model only drafts one."""

from __future__ import annotations

import re
from collections.abc import Iterable

from semshare_agents.tools.base import ToolFormat

Pairs = Iterable[tuple[str, str]]
TAGS = (("<think>", "</think>"), ("[THINK]", "[/THINK]"))
"""Between these a model thinks, whatever its template shows."""
FENCE = re.compile(r"`{3,}|~{3,}")


class FreeText:
    """Follows text up to where a call begins.

    Args:
        form: How the model writes calls.
        thoughts: Marks between which it thinks.
        closing: The mark that closes the thought in which the answer begins; empty for none.
    """

    def __init__(self, form: ToolFormat, thoughts: Pairs = (), closing: str = ""):
        self._form = form
        self._closers = dict(thoughts)
        self._pending = ""
        self._until = closing
        """What ends the thought or the code block under way; empty outside of both."""
        self._blank_line = True
        """Whether the line so far is blank, so that a code block may begin or end here."""
        self._quoted = False
        """Whether the last character is a backtick."""
        self._at_start = True
        """Whether nothing but thoughts was said."""
        self._empty_thought = bool(closing)
        """Whether the thought in which the answer began has no word yet."""
        self._skipping = False
        """Whether spaces after such a thought are passed over."""

    @property
    def rest(self) -> str:
        """What follows where a call begins; it is taken out."""
        rest, self._pending = self._pending, ""
        return rest

    def push(self, text: str) -> tuple[str, bool]:
        """Go on by a piece.

        Returns:
            What is certain to be text, and whether a call begins: `rest` is what follows its trigger.
        """
        self._pending += text
        out = ""
        while self._pending:
            said, found, moved = self._step()
            out += said
            if found or not moved:
                return out, found
        return out, False

    def finish(self) -> str:
        """What is text of what was held back, once nothing follows."""
        return self.rest

    def ended(self) -> None:
        """A call is over, and text goes on."""
        self._blank_line, self._quoted, self._at_start = False, False, False

    def _step(self) -> tuple[str, bool, bool]:
        """Text up to the next mark, whether a call begins there, and whether anything was read."""
        if self._skipping:
            self._pending = self._pending.lstrip()
        bare = self._pending.strip()
        if (self._skipping and not bare) or (
            self._empty_thought and bare != self._until and self._until.startswith(bare)
        ):
            return "", False, False
        self._skipping = False
        pending, form = self._pending, self._form
        if form.only_at_start and self._at_start and not self._until:
            bare = pending.lstrip()
            if bare.startswith(form.opening):
                return "", True, True
            if not bare:
                return "", False, False
        marks = self._marks()
        found = min(((at, -len(m), m) for m in marks if (at := pending.find(m)) >= 0), default=None)
        fence = self._fence(found[0] if found else len(pending))
        if fence is not None:
            return self._fenced(fence)
        if found is None:
            held = max((_begun(pending, m) for m in marks), default=0)
            held = max(held, _fence_begun(pending))
            return self._said(len(pending) - held), False, held < len(pending)
        at, _, mark = found
        if mark == form.trigger and not self._until and not (pending[at - 1] == "`" if at else self._quoted):
            text = self._said(at)
            self._pending = self._pending[len(mark) :]
            return text, True, True
        return self._marked(at, mark), False, True

    def _marked(self, at: int, mark: str) -> str:
        """Text up to and with a mark that begins or ends a thought, or a trigger in quotes."""
        empty = self._empty_thought and not self._pending[:at].strip()
        text = self._said(at)
        start = self._at_start
        self._until = "" if self._until else self._closers.get(mark, "")
        text += self._said(len(mark))
        if mark != self._form.trigger:
            self._blank_line = True
            # Whoever thinks first may call first all the same.
            self._at_start = start
        self._empty_thought = False
        # A thought that the prompt opened and the answer closed at once says nothing.
        self._skipping = empty
        return "" if empty else text

    def _marks(self) -> list[str]:
        """What may follow that is no plain text."""
        if self._in_block:
            return []
        if self._until:
            return [self._until]
        return [*([self._form.trigger] if self._form.trigger else []), *self._closers]

    # --- code blocks

    @property
    def _in_block(self) -> bool:
        return self._until[:1] in ("`", "~")

    def _fence(self, before: int) -> re.Match[str] | None:
        """The next run of three backticks or tildes at a line's start, where one may open or close a block."""
        if self._until and not self._in_block:
            return None
        for match in FENCE.finditer(self._pending, 0, before):
            line = self._pending[: match.start()].rpartition("\n")
            blank = not line[2].strip() and (bool(line[1]) or self._blank_line)
            if blank and (not self._until or match[0].startswith(self._until)):
                return match
        return None

    def _fenced(self, fence: re.Match[str]) -> tuple[str, bool, bool]:
        if fence.end() == len(self._pending):
            # More of it may follow.
            text = self._said(fence.start())
            return text, False, bool(text)
        self._until = "" if self._until else fence[0]
        return self._said(fence.end()), False, True

    def _said(self, count: int) -> str:
        text, self._pending = self._pending[:count], self._pending[count:]
        if text:
            last = text.rpartition("\n")
            self._blank_line = not last[2].strip() and (bool(last[1]) or self._blank_line)
            self._quoted = text.endswith("`")
            self._at_start = self._at_start and (bool(self._until) or not text.strip())
            self._empty_thought = self._empty_thought and not text.strip()
        return text


def _begun(text: str, mark: str) -> int:
    """Length of the longest end of `text` that begins `mark`."""
    return next((n for n in range(min(len(mark) - 1, len(text)), 0, -1) if text.endswith(mark[:n])), 0)


def _fence_begun(text: str) -> int:
    """Length of the run of backticks or tildes at the end of `text`."""
    last = text[-1:]
    return len(text) - len(text.rstrip(last)) if last in ("`", "~") else 0
