"""Where in a text the end of another one was seen last, and what followed it there.

A text is an array of token ids in which `NOTHING` stands between sequences. It begins with `DEPTH` times `NOTHING`, so
that looking back from any place stays inside of it. A place is where something follows: the index of the next token.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from semshare_agents.values import Ints

Tokens = NDArray[np.int32]
NOTHING = -1
DEPTH = 32
"""No more tokens than these are compared: what follows so many equal ones is settled."""
MOST_PLACES = 2048
"""So many of the newest places are compared: a look-up's time is bounded whatever the text repeats."""


@dataclass(frozen=True)
class Match:
    """Where a context was seen before.

    Attributes:
        length: How many of the context's last tokens stand there, `DEPTH` at most.
        tokens: What followed there, shape `(tokens,)`.
    """

    length: int
    tokens: Tokens


def empty(tokens: int) -> Tokens:
    """A text without tokens, with room for so many."""
    return np.full(DEPTH + tokens, NOTHING, np.int32)


def longest(text: Tokens, places: Ints, context: Tokens, most: int) -> Match | None:
    """The longest end of a context that stands before any of the places; None where not even its last token does.

    Of places that are equally good the one counts whose next token follows most often, and of those the newest.

    Args:
        text: The text, shape `(tokens,)`.
        places: Where to look, ascending, shape `(places,)`.
        context: What is to be gone on from, without `NOTHING`, shape `(tokens,)`.
        most: How many tokens are wanted.
    """
    places = places[text[places] != NOTHING][-MOST_PLACES:]
    length = 0
    for wanted in context[: -DEPTH - 1 : -1].tolist():
        further = places[text[places - length - 1] == wanted]
        if not len(further):
            break
        places, length = further, length + 1
    return Match(length, _followed(text, places, most)) if length else None


def _followed(text: Tokens, places: Ints, most: int) -> Tokens:
    """What follows the likeliest place, up to the end of its sequence, shape `(tokens,)`."""
    _, which, counts = np.unique(text[places], return_inverse=True, return_counts=True)
    often = counts[which]
    place = places[len(places) - 1 - int(often[::-1].argmax())]
    found = text[place : place + most]
    ends = np.flatnonzero(found == NOTHING)
    return found[: ends[0]].copy() if len(ends) else found.copy()
