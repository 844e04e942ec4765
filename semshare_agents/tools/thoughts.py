"""Thoughts out of a growing answer: what a model thinks before it speaks, apart from what it says."""

from __future__ import annotations

from collections.abc import Iterable

from semshare_agents.tools.calls import CallStream
from semshare_agents.values import Piece, ToolCall

BLOCK = "```"

Pairs = Iterable[tuple[str, str]]


class ThoughtStream:
    """Parts an answer into thoughts and what follows; what may begin or end a thought is held back.

    An answer thinks where its prompt opened a thought, and where it begins with a mark that opens one. Space around
    thoughts belongs to neither.

    Args:
        pairs: Marks between which the model thinks.
        closing: The mark that closes the thought in which the answer begins; empty for none.
    """

    def __init__(self, pairs: Pairs, closing: str = ""):
        self._closers = dict(pairs)
        self._pending = ""
        self._until = closing
        """What closes the thought under way; empty outside."""
        self._again = next((o for o, c in self._closers.items() if c == closing), "")
        """A mark that may open once more what the prompt opened."""
        self._space = ""
        """Space in a thought after which it may end."""
        self._empty = True
        """Whether the thought under way has no word yet."""
        self._thought = bool(closing)
        """Whether there was a thought."""
        self._over = False
        """Whether the answer speaks: nothing that follows is a thought."""

    def push(self, text: str) -> tuple[str, str]:
        """Go on by a piece.

        Returns:
            What is new of thoughts, and of what follows them.
        """
        self._pending += text
        thoughts = ""
        while not self._over:
            before = (self._pending, self._until)
            if self._until:
                thoughts += self._think()
            else:
                self._begin()
            if before == (self._pending, self._until):
                return thoughts, self._rest() if self._over else ""
        return thoughts, self._rest()

    def finish(self) -> tuple[str, str]:
        """What was held back, once nothing follows."""
        rest = self._rest()
        return (self._worded(rest), "") if self._until else ("", rest)

    def _rest(self) -> str:
        rest, self._pending = self._pending, ""
        return rest

    def _think(self) -> str:
        """Thoughts up to the mark that closes them."""
        if self._empty:
            self._pending = self._pending.lstrip()
            if self._again and self._again.startswith(self._pending):
                return ""
            if self._again and self._pending.startswith(self._again):
                self._pending = self._pending[len(self._again) :].lstrip()
            self._again = ""
        thought, closed, rest = self._pending.partition(self._until)
        if not closed:
            kept = len(thought) - _begun(thought, self._until)
            self._pending = thought[kept:]
            return self._worded(thought[:kept])
        out = self._worded(thought)
        self._pending, self._until, self._space, self._empty = rest, "", "", True
        return out

    def _worded(self, thought: str) -> str:
        """A thought up to its last word; the space behind it waits for another one."""
        thought = self._space + thought
        out = thought.rstrip()
        self._space = thought[len(out) :]
        self._empty = self._empty and not out
        return out

    def _begin(self) -> None:
        """Before anything is said: a thought may begin."""
        bare = self._pending.lstrip()
        opening = next((o for o in self._closers if bare.startswith(o)), "")
        if opening:
            self._space = "\n\n" if self._thought else ""
            self._pending, self._until, self._thought = bare[len(opening) :], self._closers[opening], True
        elif bare and not any(o.startswith(bare) for o in self._closers):
            self._pending, self._over = bare if self._thought else self._pending, True


class Spoken:
    """Text without marks that close a thought which nothing opened; in code and in quotes they are text.

    Args:
        pairs: Marks between which the model thinks.
    """

    def __init__(self, pairs: Pairs):
        self._pairs = tuple(pairs)
        self._marks = [mark for pair in self._pairs for mark in pair]
        self._pending = ""
        self._said = ""

    def push(self, text: str) -> str:
        """Go on by a piece; returns what is certain."""
        self._pending += text
        out = ""
        while True:
            found = min(((at, -len(m), m) for m in self._marks if (at := self._pending.find(m)) >= 0), default=None)
            if found is None:
                break
            out += self._up_to(found[0])
            mark, self._pending = found[2], self._pending[len(found[2]) :]
            if not self._is_lone(mark):
                self._said += mark
                out += mark
        held = max((_begun(self._pending, mark) for mark in self._marks), default=0)
        return out + self._up_to(len(self._pending) - held)

    def finish(self) -> str:
        """What was held back, once nothing follows."""
        return self._up_to(len(self._pending))

    def _up_to(self, count: int) -> str:
        out, self._pending = self._pending[:count], self._pending[count:]
        self._said += out
        return out

    def _is_lone(self, mark: str) -> bool:
        opening = next((opening for opening, closing in self._pairs if closing == mark), "")
        if not opening or self._said.count(opening) > self._said.count(mark):
            return False
        return not self._said.endswith("`") and self._said.count(BLOCK) % 2 == 0


class AnswerParts:
    """Parts an answer into thoughts, text and calls.

    Args:
        calls: Takes calls out of the text; None where there are no tools.
        pairs: Marks between which the model thinks; none where thoughts stay in the text.
        closing: The mark that closes the thought in which the answer begins; empty for none.
    """

    def __init__(self, calls: CallStream | None = None, pairs: Pairs = (), closing: str = ""):
        pairs = tuple(pairs)
        self._thinking = ThoughtStream(pairs, closing) if pairs else None
        self._spoken = Spoken(pairs)
        self._calls = calls
        self.thoughts = ""
        """All thoughts so far."""

    @property
    def calls(self) -> tuple[ToolCall, ...]:
        """The calls so far; see `CallStream.calls`."""
        return () if self._calls is None else self._calls.calls

    def piece(self, text: str) -> Piece:
        """Go on by a piece of the answer: what is certain to be thought, text, or part of a call."""
        thought, rest = ("", text) if self._thinking is None else self._thinking.push(text)
        self.thoughts += thought
        said, parts = (rest, ()) if self._calls is None else self._calls.push(rest)
        return Piece(self._spoken.push(said), None, parts, thoughts=thought)

    def last(self) -> Piece:
        """What was held back, once nothing follows."""
        thought, rest = ("", "") if self._thinking is None else self._thinking.finish()
        self.thoughts += thought
        if self._calls is not None:
            rest = self._calls.push(rest)[0] + self._calls.finish()
        return Piece(self._spoken.push(rest) + self._spoken.finish(), thoughts=thought)


def _begun(text: str, mark: str) -> int:
    """Length of the longest end of `text` that begins `mark`."""
    return next((n for n in range(min(len(mark) - 1, len(text)), 0, -1) if text.endswith(mark[:n])), 0)
