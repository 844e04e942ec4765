"""Signatures: which past turns say much the same, found through SQL.

Reworded text keeps its names, numbers and topic words. So a turn is cut into windows that overlap by half, and each
window is signed by weighted MinHash over the tokens it contains (Ioffe, ICDM 2010; here in the exponential form of
Moulton and Jiang, ICDM 2018), rare tokens weighing most: two windows agree in a band with the probability of their
weighted Jaccard similarity. A band that agrees is one row of an SQL index; donors are ranked by how many they share.

Random hyperplanes over summed embeddings were tried first and told paraphrases from other conversations far less
well (`docs/architecture.md`); hyperplanes serve where embeddings are compared one by one
(`semshare_agents.match.tokens`).
"""

from __future__ import annotations

import numpy as np

from semshare_agents.match.names import mix
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
        weight = (rarity / rarity.max()) ** RARITY_POWER + 1e-9
        rng = np.random.default_rng(int.from_bytes(seed, "little"))
        self._draws = (-np.log(rng.random((BANDS, vocabulary))) / weight).astype(np.float32)
        self._key = np.uint64(int.from_bytes(seed[8:16], "little"))

    def bands(self, tokens: Ints) -> Ints:
        """Band values of a sequence's windows, shape `(windows, bands)`; the band's number is part of its value."""
        vocabulary = self._draws.shape[1]
        values = []
        for start in range(0, max(1, len(tokens) - WINDOW_TOKENS + STEP_TOKENS), STEP_TOKENS):
            present = np.unique(tokens[start : start + WINDOW_TOKENS])
            least = present[self._draws[:, present].argmin(axis=1)]
            values.append(np.arange(BANDS) * vocabulary + least)
        return mix(np.stack(values).astype(np.uint64) + self._key).view(np.int64)
