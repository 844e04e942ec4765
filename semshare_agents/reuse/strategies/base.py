"""The contract of selection strategies."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from semshare_agents.values import Floats, Ints


@dataclass(frozen=True)
class Candidates:
    """The semantically matched rows among which a strategy chooses.

    Attributes:
        rows: Their positions, ascending, shape `(candidates,)`.
        distance: Distance of each one's token to the matched one, in [0, 1], 0 for equal tokens, `(candidates,)`.
        asked: What each one's passage has in common with the question, 0 for nothing, `(candidates,)`; see
            `semshare_agents.match.question`.
    """

    rows: Ints
    distance: Floats
    asked: Floats

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True)
class Choice:
    """Which of the semantically matched rows are computed.

    Attributes:
        rows: Rows computed from the first layer on, a subset of the candidates' rows, ascending, shape `(rows,)`.
        check_layer: Layer at which the deviation of fresh from reused KV is measured; -1 for none.
        layer_shares: For each layer, the share of the candidates that computes there; those above the check layer
            keep the rows that deviate most. Empty where all layers compute `rows`.
    """

    rows: Ints
    check_layer: int = -1
    layer_shares: tuple[float, ...] = ()


class SelectionStrategy(ABC):
    """Spends a share of the semantically matched rows where it helps most."""

    name: str

    @abstractmethod
    def choose(self, candidates: Candidates, share: float, layers: int) -> Choice:
        """Choose rows.

        Args:
            candidates: The semantically matched rows.
            share: Mean share of the candidates that may be computed, in [0, 1].
            layers: Layers of the model.
        """
