"""SemShareKV's own choice (arXiv 2509.24832): rows that deviate at a shallow layer, many below and few above."""

from __future__ import annotations

import numpy as np

from semshare_agents.reuse.strategies.base import Candidates, Choice, SelectionStrategy

CHECK_LAYER = 1
DECAY_SPAN = 5.0
"""The shallowest layer after the check computes this many times the rows of the deepest."""


class Deviation(SelectionStrategy):
    """All candidates up to the check layer, then shares that decay exponentially towards the deepest layer.

    The full layers up to the check are paid on top of `share`, which is the mean over the layers above it.
    """

    name = "deviation"

    def choose(self, candidates: Candidates, share: float, layers: int) -> Choice:
        """See `SelectionStrategy.choose`."""
        above = max(1, layers - CHECK_LAYER - 1)
        decay = np.exp(-np.log(DECAY_SPAN) * np.arange(above) / max(1, above - 1))
        shares = np.minimum(1.0, decay * share / decay.mean())
        full = (1.0,) * (CHECK_LAYER + 1)
        return Choice(candidates.rows, CHECK_LAYER, (full + tuple(float(s) for s in shares))[:layers])
