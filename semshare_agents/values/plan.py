"""Which rows of a prompt are computed."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from semshare_agents.values.arrays import Floats, Ints
from semshare_agents.values.reason import Reason


@dataclass(frozen=True)
class Look:
    """Rows among which the attention of the prompt's end chooses those that are computed besides.

    Attributes:
        candidates: Rows, ascending, shape `(candidates,)`.
        weight: Factor of the attention that each gets, shape `(candidates,)`.
        rows: How many are computed.
        late: Whether they are computed by the first decoding steps instead of before the first token.
    """

    candidates: Ints
    weight: Floats
    rows: int
    late: bool = False


@dataclass(frozen=True)
class Plan:
    """Which rows of the prompt are computed.

    Attributes:
        rows: Rows computed from the first layer on, ascending, shape `(rows,)`; always holds the last one.
        cold: Whether everything is computed and nothing loaded.
        reason: Why the plan is cold or narrower than asked for; None otherwise.
        predicted_seconds: Predicted time of load, move and compute.
        predicted_cold_seconds: Predicted time of a full prefill.
        layer_shares: Shares of the semantic rows kept per layer; empty when all layers compute `rows`.
        check_layer: Layer at which deviation is measured; -1 for none.
        required: Rows computed in every layer; equals `rows` for a static plan.
        looks: What is computed besides, as the prompt's end attends to it.
        hurried: Whether the answer's first tokens carry all that is left, until the turn is exact.
        spread_logits: By how much drift is predicted to move one logit against another; 0 where near ties may stand.
        drift_kl: Mean KL to a cold run that the turn is predicted to keep, in nats.
    """

    rows: Ints
    cold: bool
    reason: Reason | None = None
    predicted_seconds: float = 0.0
    predicted_cold_seconds: float = 0.0
    layer_shares: tuple[float, ...] = ()
    check_layer: int = -1
    required: Ints = field(default_factory=lambda: np.zeros(0, np.int64))
    looks: tuple[Look, ...] = ()
    hurried: bool = False
    spread_logits: float = 0.0
    drift_kl: float = 0.0
