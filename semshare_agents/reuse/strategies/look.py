"""Two passes: the prompt's end looks at the reused KV, then what it looks at and what was matched badly is computed."""

from __future__ import annotations

import numpy as np

from semshare_agents.reuse.strategies.base import Choice, SelectionStrategy
from semshare_agents.values import Floats, Ints

EQUAL_WEIGHT = 0.2
"""What a candidate counts whose token equals the matched one."""


class Looking(SelectionStrategy):
    """Attention of the prompt's end times the distance of the match, in the manner of query-aware row choice."""

    name = "look"

    def choose(self, candidates: Ints, distance: Floats, share: float, layers: int) -> Choice:
        """See `SelectionStrategy.choose`."""
        weight = (EQUAL_WEIGHT + distance).astype(np.float32)
        return Choice(np.zeros(0, np.int64), look_rows=round(share * len(candidates)), look_weight=weight)
