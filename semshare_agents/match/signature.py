"""Signatures: which past turns say much the same, found through SQL.

A turn is cut into windows that overlap by half; each window is described by the rare tokens it contains, because names
and topic words survive rewording while common words say nothing. The description is a random-hyperplane sketch of the
window's token embeddings, weighted by rarity: close windows agree in most bits (Charikar, STOC 2002). Bits are banded,
and a band that agrees is one row in an SQL index; donors are ranked by how many bands of how many windows they share.
"""

from __future__ import annotations

import numpy as np
import torch

from semshare_agents.values import Floats, Ints

WINDOW_TOKENS = 256
STEP_TOKENS = 128
BANDS = 12
BAND_BITS = 16
SMOOTHING = 1e-3


class Signer:
    """Signs token sequences of one model.

    Args:
        embeddings: Input embeddings `(vocabulary, hidden)`.
        seed: Keys the hyperplanes, so that signatures of different scopes cannot be compared.
    """

    def __init__(self, embeddings: torch.Tensor, seed: bytes):
        self._embeddings = embeddings
        generator = torch.Generator().manual_seed(int.from_bytes(seed[:7], "little"))
        self._planes = torch.randn(embeddings.shape[1], BANDS * BAND_BITS, generator=generator)
        sample = embeddings[:: max(1, len(embeddings) // 8192)].float().cpu()
        self._mean = sample.mean(0)

    @torch.inference_mode()
    def sketch(self, tokens: Ints) -> Floats:
        """Unit sketches of a sequence's windows, shape `(windows, hidden)`."""
        starts = range(0, max(1, len(tokens) - WINDOW_TOKENS + STEP_TOKENS), STEP_TOKENS)
        ids, back = np.unique(tokens, return_inverse=True)
        rows = self._embeddings[torch.as_tensor(ids, device=self._embeddings.device)].float().cpu() - self._mean
        windows = []
        for start in starts:
            present, counts = np.unique(back[start : start + WINDOW_TOKENS], return_counts=True)
            # Byte-pair vocabularies are ordered by frequency: the id itself tells how rare a token is.
            rarity = np.log1p(ids[present].astype(np.float64)) ** 4 * np.sqrt(counts)
            windows.append(torch.as_tensor(rarity, dtype=torch.float32) @ rows[torch.as_tensor(present)])
        sketches = torch.stack(windows)
        unit: Floats = torch.nn.functional.normalize(sketches, dim=1).numpy()
        return unit

    def bands(self, tokens: Ints) -> Ints:
        """Band values of a sequence's windows, shape `(windows, bands)`; the band's number is part of its value."""
        bits = torch.from_numpy(self.sketch(tokens)) @ self._planes >= 0
        grouped = bits.numpy().reshape(len(bits), BANDS, BAND_BITS).astype(np.int64)
        values: Ints = grouped @ (1 << np.arange(BAND_BITS)) + (np.arange(BANDS) << BAND_BITS)
        return values
