"""The same rows in all layers, chosen by embedding distance before anything is computed."""

from __future__ import annotations

import numpy as np

from semshare_agents.reuse.strategies.base import Candidates, Choice, SelectionStrategy


class Static(SelectionStrategy):
    """Computes the rows whose tokens are furthest from what they were matched to; no layer is computed in full."""

    name = "static"

    def choose(self, candidates: Candidates, share: float, layers: int) -> Choice:
        """See `SelectionStrategy.choose`."""
        budget = round(share * len(candidates))
        furthest = np.argsort(-candidates.distance, kind="stable")[:budget]
        return Choice(np.sort(candidates.rows[furthest]))
