"""Near ties: where drift could decide which token a greedy answer takes, it may not.

Drift of KL k moves the lead of one token's logit over another's by about `sqrt(2 k)`. A lead that is wide against what
a turn is predicted to drift is trusted. In a narrow one all rows that are not a cold run's are computed, and the last
one again, before the token is drawn: the turn is exact from there on. This is for turns that are exact soon anyway: it
costs time to the first token where the first is nearly a tie; later ones only bring forward what the next steps carry.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch

from semshare_agents.model.generate import Sampler
from semshare_agents.model.run import Run
from semshare_agents.values import Plan, Reason, ReasonCode
from semshare_agents.values.reason import joined

FIRST_SPREADS = 2.0
"""From which lead on, in spreads, the first token is certain: of 110 turns of 0.3k to 1k tokens drift changed no lead
over 1.71 (`benchmarks/near_ties.py`)."""
LATER_SPREADS = 4.0
"""The same for later tokens, where being surer costs next to nothing: none was changed over 2.2."""
NEAR_TIE = Reason(
    ReasonCode.NEAR_TIE, "drift could decide which token comes first: every token after the exact ones is computed"
)


def spread_of(bound_kl: float) -> float:
    """By how much drift moves the lead of one token over another, in logits.

    Args:
        bound_kl: Mean KL that the turn's tokens are predicted to keep while it is approximate, in nats.
    """
    return math.sqrt(2 * bound_kl)


def uncertain(run: Run, sampler: Sampler, logits: torch.Tensor, spreads: float) -> bool:
    """Whether drift could decide which token is drawn, so that the rest of the run's rows has to be computed before.

    Args:
        run: Holds the turn's KV.
        sampler: Will draw the token.
        logits: The last row's, shape `(vocabulary,)`.
        spreads: From which lead on, in the run's spreads, they are taken as they are.
    """
    rows = run.by_rows
    if rows is None or not rows.spread_logits or rows.exact >= rows.length:
        return False
    return sampler.lead(logits) < spreads * rows.spread_logits


def finished(plan: Plan, exact: int, tokens: int) -> Plan:
    """A plan of which all that follows the first `exact` of the prompt's tokens was computed in the end."""
    rows = np.union1d(plan.rows, np.arange(exact, tokens))
    reason = joined(plan.reason, NEAR_TIE)
    done = replace(plan, rows=rows, required=rows, layer_shares=(), check_layer=-1, looks=(), reason=reason)
    return replace(done, hurried=False, spread_logits=0.0, drift_kl=0.0)
