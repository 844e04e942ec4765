"""How much repair a decoding step carries."""

from __future__ import annotations

from dataclasses import dataclass

from semshare_agents.reuse.cost import CostModel


@dataclass(frozen=True)
class RepairRate:
    """How many rows behind the exact frontier a decoding step computes besides its own.

    Attributes:
        rows: So many; None leaves it to the slowdown.
        slowdown: Share of a step's time they may take.
        slowdown_semantic: The same for turns with semantic reuse, which drift most.
    """

    rows: int | None
    slowdown: float
    slowdown_semantic: float

    def beside_a_step(self, length: int, exact: int, semantic: bool, cost: CostModel | None) -> int:
        """Rows that the next step carries.

        Args:
            length: Rows of KV, in tokens.
            exact: How many of the first of them are a cold run's.
            semantic: Whether the turn has semantic reuse.
            cost: What rows and steps take; None where it is not known.
        """
        if exact >= length:
            return 0
        if self.rows is not None:
            return self.rows
        slowdown = self.slowdown_semantic if semantic else self.slowdown
        return 0 if cost is None else cost.rows_beside_a_step(length, exact, slowdown)
