"""What became of a prompt's tokens under a plan."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from semshare_agents.values import Alignment, Ints, Kind, Plan


def effective_kinds(alignment: Alignment, plan: Plan) -> NDArray[np.uint8]:
    """`Kind` of each prompt token as it was used: rows computed in the first layers count as computed."""
    kinds = alignment.kind.copy()
    if plan.layer_shares:
        kinds[plan.required] = Kind.COMPUTED
    else:
        kinds[plan.rows] = Kind.COMPUTED
    return kinds


def exact_frontier(alignment: Alignment, plan: Plan) -> int:
    """Length of the prompt's prefix whose KV equals a cold run's."""
    if plan.cold:
        return len(alignment)
    kinds = effective_kinds(alignment, plan)
    approximate = np.flatnonzero((kinds == Kind.MOVED) | (kinds == Kind.SEMANTIC))
    return int(approximate[0]) if len(approximate) else len(alignment)


def unchanged(prompt: Ints, alignment: Alignment, plan: Plan) -> Ints:
    """For each prompt token the donor whose KV of it was taken as it is, at its own place; -1 where there is none.

    A row of an exact prefix that was computed again has the donor's KV all the same. A reworded token has another's KV.

    Args:
        prompt: Token ids, shape `(tokens,)`.
        alignment: Where the KV comes from.
        plan: What was computed.

    Returns:
        Indices into `alignment.donors`, shape `(tokens,)`.
    """
    whose = np.full(len(prompt), -1, np.int64)
    if plan.cold or plan.layer_shares:
        return whose
    taken = (effective_kinds(alignment, plan) != Kind.COMPUTED) | (alignment.kind == Kind.EXACT)
    taken &= alignment.source == np.arange(len(prompt))
    for index, donor in enumerate(alignment.donors):
        mine = np.flatnonzero(taken & (alignment.donor == index))
        mine = mine[donor.tokens[mine] == prompt[mine]]
        whose[mine] = index
    return whose
