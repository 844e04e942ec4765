"""The prompt and the answer so far, as drafts find them."""

from __future__ import annotations

import numpy as np

from semshare_agents.drafts.search import DEPTH, Match, Tokens, empty, longest
from semshare_agents.values import Ints


class LiveText:
    """A text that grows; a look-up runs over all of it, which takes microseconds for thousands of tokens.

    Args:
        prompt: Token ids, shape `(tokens,)`.
        room_tokens: How many tokens may follow.
    """

    def __init__(self, prompt: Ints, room_tokens: int):
        self._text = empty(len(prompt) + room_tokens)
        self._end = DEPTH + len(prompt)
        self._text[DEPTH : self._end] = prompt

    def append(self, token: int) -> None:
        """Go on by a token."""
        self._text[self._end] = token
        self._end += 1

    @property
    def context(self) -> Tokens:
        """The last tokens, up to `DEPTH`, shape `(tokens,)`."""
        return self._text[max(DEPTH, self._end - DEPTH) : self._end]

    def longest(self, most: int) -> Match | None:
        """Where the text's own end stands in it before; see `semshare_agents.drafts.search.longest`."""
        text = self._text[: self._end]
        if self._end == DEPTH:
            return None
        places = np.flatnonzero(text[:-1] == text[-1]) + 1
        return longest(text, places, self.context, most)
