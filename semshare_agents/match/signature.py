"""Signatures: which past turns say much the same, found through SQL.

Reworded text keeps its names, numbers and topic words. So a turn is cut into windows that overlap by half, and each
window is signed by weighted MinHash over the tokens it contains (Ioffe, ICDM 2010; here in the exponential form of
Moulton and Jiang, ICDM 2018), rare tokens weighing most: two windows agree in a band with the probability of their
weighted Jaccard similarity. A band that agrees is one row of an SQL index; the turns that share most are compared
window by window, and ranked by what bands only estimate.

Random hyperplanes over summed embeddings were tried first and told paraphrases from other conversations far less
well (`docs/internals/departures.md`); hyperplanes serve where embeddings are compared one by one
(`semshare_agents.match.tokens`).
"""

from __future__ import annotations

from collections.abc import Sequence

import blake3
import numpy as np
from numpy.typing import NDArray

from semshare_agents.match.keyed import KEY_BYTES, keyed
from semshare_agents.values import Ints

WINDOW_TOKENS = 256
STEP_TOKENS = 128
BANDS = 12
RARITY_POWER = 8


class Signer:
    """Signs token sequences.

    Args:
        vocabulary: Size of the model's vocabulary.
        seed: Keys the signature, so that those of different scopes cannot be compared.
    """

    def __init__(self, vocabulary: int, seed: bytes):
        # Byte-pair vocabularies are ordered by frequency: the id itself tells how rare a token is.
        rarity = np.log1p(np.arange(vocabulary))
        weight = self._weight = (rarity / rarity.max()) ** RARITY_POWER + 1e-9
        rng = np.random.default_rng(int.from_bytes(seed, "little"))
        self._draws = (-np.log(rng.random((BANDS, vocabulary))) / weight).astype(np.float32)
        self._key = blake3.blake3(b"bands" + seed).digest(KEY_BYTES)

    def bands(self, tokens: Ints) -> Ints:
        """Band values of a sequence's windows, shape `(windows, bands)`; the band's number is part of its value."""
        vocabulary = self._draws.shape[1]
        values = []
        for present in _windows(tokens):
            least = present[self._draws[:, present].argmin(axis=1)]
            values.append(np.arange(BANDS) * vocabulary + least)
        return keyed(np.stack(values).astype(np.uint64), self._key)

    def similarity(self, tokens: Ints, others: Sequence[Ints]) -> NDArray[np.float64]:
        """What bands estimate, exactly: the mean over the windows of `tokens` of the other's most similar one.

        Args:
            tokens: Token ids, shape `(tokens,)`.
            others: Token ids of what it is compared with, at least one sequence.

        Returns:
            Weighted Jaccard similarities, shape `(others,)`.
        """
        absent = len(self._weight)
        weight = np.append(self._weight, 0.0)
        windows, firsts = _rows(others, absent)
        mass = weight[windows].sum(axis=1)
        mine, _ = _rows([tokens], absent)
        total = np.zeros(len(others))
        for window in mine:
            here = np.zeros(len(weight))
            here[window] = weight[window]
            common = here[windows].sum(axis=1)
            total += np.maximum.reduceat(common / (mass + here.sum() - common), firsts)
        return total / len(mine)


def _windows(tokens: Ints) -> list[Ints]:
    """The tokens that each window has; windows overlap by half."""
    return [np.unique(tokens[start : start + WINDOW_TOKENS]) for start in _starts(tokens)]


def _rows(texts: Sequence[Ints], absent: int) -> tuple[NDArray[np.int32], Ints]:
    """The windows of many texts as rows, to be compared at once.

    Returns:
        The tokens that each window has, filled up with `absent`, shape `(windows, WINDOW_TOKENS)`; and each text's
        first window, shape `(texts,)`.
    """
    starts = [_starts(text) for text in texts]
    rows = np.full((sum(map(len, starts)), WINDOW_TOKENS), absent, np.int32)
    parts = (text[start : start + WINDOW_TOKENS] for text, some in zip(texts, starts, strict=True) for start in some)
    for row, part in zip(rows, parts, strict=True):
        row[: len(part)] = part
    rows.sort(axis=1)
    later = rows[:, 1:]
    later[later == rows[:, :-1]] = absent
    return rows, np.cumsum([0, *map(len, starts[:-1])])


def _starts(tokens: Ints) -> range:
    return range(0, max(1, len(tokens) - WINDOW_TOKENS + STEP_TOKENS), STEP_TOKENS)
