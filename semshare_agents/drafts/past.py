"""What a tenant's past turns say, as drafts find it."""

from __future__ import annotations

from dataclasses import dataclass
from threading import Lock

import numpy as np
import xxhash
from numpy.typing import NDArray

from semshare_agents.drafts.search import DEPTH, NOTHING, Match, Tokens, empty, longest
from semshare_agents.values import Ints

LEAST_MATCH = 3
"""Of long texts shorter matches tell nothing, and would be many."""
MOST_TOKENS = 262_144
"""Tokens of one tenant's texts: a look-up runs over all of them in 0.1 ms."""
KEPT_SHARE = 0.75
"""Of a text that is full so much is kept: the newest."""
BLOCK_TOKENS = 64
"""Sequences that begin alike are kept once, up to a whole block of this size."""
FIRST_TOKENS = 4096
EMPTY_BYTES = 1024
"""What a text without tokens takes."""


@dataclass(frozen=True)
class _View:
    """A text with keys, as look-ups see it; what is appended later lies behind its end.

    Attributes:
        text: Token ids, see `semshare_agents.drafts.search`.
        keys: A hash of the `LEAST_MATCH` tokens before each place.
        end: Past the last token.
    """

    text: Tokens
    keys: NDArray[np.uint32]
    end: int


class PastText:
    """One tenant's texts, newest last, within a bound. Look-ups may run beside additions.

    Args:
        most_tokens: The bound.

    Attributes:
        newest: The newest turn that was added, or passed over.
        forgotten: Whether it was given up: nothing is found in it and nothing added any more.
    """

    def __init__(self, most_tokens: int = MOST_TOKENS):
        self._most = most_tokens
        self._view = _View(empty(0), np.zeros(DEPTH, np.uint32), DEPTH)
        self._known: set[int] = set()
        self._adding = Lock()
        self.newest = 0
        self.forgotten = False

    @property
    def nbytes(self) -> int:
        """Bytes that it holds, about."""
        return self._view.text.nbytes + self._view.keys.nbytes + EMPTY_BYTES

    def __len__(self) -> int:
        return self._view.end - DEPTH

    def add(self, turn_id: int, tokens: Ints) -> None:
        """Add a turn's tokens, shape `(tokens,)`, without a beginning that another turn has too."""
        with self._adding:
            if self.forgotten or turn_id <= self.newest:
                return
            self.newest = turn_id
            known = self._known_tokens(tokens)
            fresh = tokens[max(0, known - DEPTH) :] if known < len(tokens) else tokens[:0]
            if len(fresh) > LEAST_MATCH:
                self._append(fresh[-self._most + 1 :].astype(np.int32))

    def forget(self) -> None:
        """Give it up, for look-ups under way too."""
        with self._adding:
            self.forgotten = True
            self._known.clear()
            self._view = _View(empty(0), np.zeros(DEPTH, np.uint32), DEPTH)

    def longest(self, context: Tokens, most: int) -> Match | None:
        """Where `LEAST_MATCH` tokens or more of a context's end were seen; see `search.longest`.

        Args:
            context: The last tokens of what is to be gone on from, shape `(tokens,)`.
            most: How many tokens are wanted.
        """
        view = self._view
        if len(context) < LEAST_MATCH:
            return None
        key = _keys(context[-LEAST_MATCH:])[0]
        places = np.flatnonzero(view.keys[: view.end] == key)
        found = longest(view.text[: view.end], places, context, most)
        return found if found is not None and found.length >= LEAST_MATCH else None

    def _known_tokens(self, tokens: Ints) -> int:
        """How many of the first tokens begin another turn too; those of this one are known from now on."""
        raw, chain, known, new = tokens.astype("<i4").tobytes(), 0, 0, False
        for start in range(0, len(tokens) - BLOCK_TOKENS + 1, BLOCK_TOKENS):
            chain = xxhash.xxh3_64_intdigest(raw[4 * start : 4 * (start + BLOCK_TOKENS)], seed=chain)
            new = new or chain not in self._known
            if not new:
                known = start + BLOCK_TOKENS
            self._known.add(chain)
        return known

    def _append(self, tokens: Tokens) -> None:
        view, needed = self._view, len(tokens) + 1
        if view.end + needed > DEPTH + self._most:
            view = self._newest_part(view, max(0, min(int(KEPT_SHARE * self._most), self._most - needed)))
        end = view.end + needed
        if end > len(view.text):
            view = _grown(view, min(max(2 * len(view.text), end, FIRST_TOKENS), DEPTH + self._most))
        view.text[view.end : end - 1], view.text[end - 1] = tokens, NOTHING
        # What a look-up under way sees of the same arrays ends before this.
        view.keys[view.end + LEAST_MATCH : end] = _keys(tokens)
        self._view = _View(view.text, view.keys, end)

    def _newest_part(self, view: _View, most: int) -> _View:
        """The last whole sequences of a view that are within `most` tokens. What was known is no longer all there."""
        self._known.clear()
        first = max(DEPTH, view.end - most)
        ends = np.flatnonzero(view.text[first - 1 : view.end] == NOTHING)
        start = first + int(ends[0]) if len(ends) else view.end
        text, keys = empty(self._most), np.zeros(DEPTH + self._most, np.uint32)
        end = DEPTH + view.end - start
        text[DEPTH:end], keys[DEPTH:end] = view.text[start : view.end], view.keys[start : view.end]
        return _View(text, keys, end)


def _grown(view: _View, size: int) -> _View:
    text, keys = empty(size - DEPTH), np.zeros(size, np.uint32)
    text[: view.end], keys[: view.end] = view.text[: view.end], view.keys[: view.end]
    return _View(text, keys, view.end)


def _keys(tokens: Tokens) -> NDArray[np.uint32]:
    """A hash of every `LEAST_MATCH` tokens that stand together, shape `(tokens - LEAST_MATCH + 1,)`, never 0.

    Equal hashes are no more than a hint: the tokens are compared.
    """
    t = tokens.astype(np.uint32)
    # Odd constants of Knuth's multiplicative hashing, each 2^32 times an irrational number's fraction.
    mixed: NDArray[np.uint32] = (t[:-2] * np.uint32(2654435769)) ^ (t[1:-1] * np.uint32(2246822519)) ^ t[2:]
    return (mixed * np.uint32(3266489917)) | np.uint32(1)
