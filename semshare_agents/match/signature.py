"""Signatures: which past turns say much the same, found through SQL.

Reworded text keeps its names, numbers and topic words. So a turn is cut into windows that overlap by half, and each
window is signed by weighted MinHash over the tokens it contains (Ioffe, ICDM 2010; here in the exponential form of
Moulton and Jiang, ICDM 2018), rare tokens weighing most: two windows agree in a band with the probability of their
weighted Jaccard similarity. A band that agrees is one row of an SQL index; the turns that share most are compared
window by window, and ranked by what bands only estimate.

Random hyperplanes over summed embeddings were tried first and told paraphrases from other conversations far less
well (`docs/architecture.md`); hyperplanes serve where embeddings are compared one by one
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
        windows = [_windows(other) for other in others]
        flat = [window for some in windows for window in some]
        present, starts = np.concatenate(flat), np.cumsum([0, *map(len, flat[:-1])])
        firsts = np.cumsum([0, *map(len, windows[:-1])])
        mass = np.add.reduceat(self._weight[present], starts)
        mine, total = _windows(tokens), np.zeros(len(others))
        for window in mine:
            here = np.zeros(len(self._weight))
            here[window] = self._weight[window]
            common = np.add.reduceat(here[present], starts)
            total += np.maximum.reduceat(common / (mass + here.sum() - common), firsts)
        return total / len(mine)


def _windows(tokens: Ints) -> list[Ints]:
    """The tokens that each window has; windows overlap by half."""
    starts = range(0, max(1, len(tokens) - WINDOW_TOKENS + STEP_TOKENS), STEP_TOKENS)
    return [np.unique(tokens[start : start + WINDOW_TOKENS]) for start in starts]
