"""The contract of selection strategies."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field

import numpy as np

from semshare_agents.values import Floats, Ints


@dataclass(frozen=True)
class Choice:
    """Which of the semantically matched rows are computed.

    Attributes:
        rows: Rows computed from the first layer on, a subset of the candidates, ascending, shape `(rows,)`.
        check_layer: Layer at which the deviation of fresh from reused KV is measured; -1 for none.
        layer_shares: For each layer, the share of the candidates that computes there; those above the check layer
            keep the rows that deviate most. Empty where all layers compute `rows`.
        look_rows: How many further candidates a second pass computes: those with the largest product of `look_weight`
            and the attention that the prompt's end pays them; 0 for no second pass.
        look_weight: Weight of each candidate in the second pass, shape `(candidates,)`.
    """

    rows: Ints
    check_layer: int = -1
    layer_shares: tuple[float, ...] = ()
    look_rows: int = 0
    look_weight: Floats = field(default_factory=lambda: np.zeros(0, np.float32))


class SelectionStrategy(ABC):
    """Spends a share of the semantically matched rows where it helps most."""

    name: str

    @abstractmethod
    def choose(self, candidates: Ints, distance: Floats, share: float, layers: int) -> Choice:
        """Choose rows.

        Args:
            candidates: Semantically matched rows, ascending, shape `(candidates,)`.
            distance: Distance of each candidate's token to the matched one, in [0, 1], shape `(candidates,)`.
            share: Mean share of the candidates that may be computed, in [0, 1].
            layers: Layers of the model.
        """
