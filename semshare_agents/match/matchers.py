"""Ways of giving each token of a reworded region its reference token; the `matching` setting names one.

`path` is ours (`match/tokens.py`). `nearest` is SemShareKV's (arXiv 2509.24832): each token on its own takes the
reference token whose embedding, with RoPE applied at its own position, is nearest by LSH. `position-free` is the same
without RoPE, which shows what position is worth in the match. Both look at every reference token, so their work grows
with the product of the lengths.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from semshare_agents.errors import ConfigurationError
from semshare_agents.match.tokens import TokenCodes, distances, match
from semshare_agents.values import Floats, Ints

Matcher = Callable[[TokenCodes, Ints, int, Ints, NDArray[np.int64]], tuple[Ints, Floats]]
"""`(codes, part, start, reference, anchors) -> (source, distance)`.

`part` are the region's tokens `(tokens,)` and `start` is its place in the prompt, `reference` the donor's tokens,
`anchors` pairs of places `(anchors, 2)` with equal text. Returned are the reference position of each token and the LSH
distance of the two embeddings in [0, 1], both `(tokens,)`.
"""

STRIP_TOKENS = 512


def along_path(
    codes: TokenCodes, part: Ints, start: int, reference: Ints, anchors: NDArray[np.int64]
) -> tuple[Ints, Floats]:
    """The best forward path near the anchors; see `match.tokens.match`."""
    return match(codes, part, reference, anchors)


def nearest(
    codes: TokenCodes, part: Ints, start: int, reference: Ints, anchors: NDArray[np.int64]
) -> tuple[Ints, Floats]:
    """The nearest token by LSH on embeddings that carry their position through RoPE."""
    here = codes.at(part, np.arange(start, start + len(part)))
    source = _most_alike(here, codes.at(reference, np.arange(len(reference))))
    return source, distances(codes, part, reference[source])


def position_free(
    codes: TokenCodes, part: Ints, start: int, reference: Ints, anchors: NDArray[np.int64]
) -> tuple[Ints, Floats]:
    """The nearest token by LSH on embeddings alone."""
    source = _most_alike(codes.of(part), codes.of(reference))
    return source, distances(codes, part, reference[source])


def _most_alike(codes: Floats, others: Floats) -> Ints:
    """For each code the index of the one it agrees with most, the first of equals; `(tokens,)`."""
    starts = range(0, len(codes), STRIP_TOKENS)
    return np.concatenate([(codes[a : a + STRIP_TOKENS] @ others.T).argmax(axis=1) for a in starts])


MATCHERS: dict[str, Matcher] = {"path": along_path, "nearest": nearest, "position-free": position_free}


def make_matcher(name: str) -> Matcher:
    """A matcher by name.

    Raises:
        ConfigurationError: there is no such matcher.
    """
    try:
        return MATCHERS[name]
    except KeyError:
        raise ConfigurationError(f"unknown matching {name!r}; known: {', '.join(MATCHERS)}") from None
