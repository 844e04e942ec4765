"""The report of a turn: where every token's KV came from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import numpy as np

from semshare_agents.reuse.colds import LikeCold
from semshare_agents.reuse.kinds import effective_kinds, exact_frontier
from semshare_agents.values import Alignment, Kind, Plan, Reason, ReasonCode, Report, Reuse, Saved
from semshare_agents.values.reason import joined, not_served
from semshare_agents.values.reuse_map import spans_of

MEMORY_STAGES = ("find", "align", "guard", "plan", "load")
"""Stages that a turn without a memory does not have."""


def computed_again(asked: Reuse, alignment: Alignment, plan: Plan, misses: int) -> Reason | None:
    """That the loosest matches asked for are all computed; None where some are used, or none were found."""
    loosest = {Reuse.MOVED: Kind.MOVED, Reuse.SEMANTIC: Kind.SEMANTIC}.get(asked)
    if loosest is None or plan.cold or not (alignment.kind == loosest).any():
        return None
    if (effective_kinds(alignment, plan) == loosest).any():
        return None
    again = Reason(ReasonCode.COMPUTED_AGAIN, f"every token with a {asked} match is computed again")
    return joined(not_served(misses) if misses else None, again)


def make_report(
    alignment: Alignment,
    plan: Plan,
    stages_seconds: Mapping[str, float],
    ttft_seconds: float,
    misses: int,
    layers: int,
    candidates: int,
) -> Report:
    """Sum up a turn.

    Args:
        alignment: Where each token's KV could come from.
        plan: What was computed.
        stages_seconds: Seconds of each stage.
        ttft_seconds: From the call to here.
        misses: Blocks promised and not served.
        layers: Layers of the model.
        candidates: Rows that a layered plan may drop above its check layer.
    """
    tokens = len(alignment)
    kinds = np.zeros(tokens, np.uint8) if plan.cold else effective_kinds(alignment, plan)
    counts = {kind.name.lower(): int((kinds == kind).sum()) for kind in Kind}
    loosest = Kind(int(kinds.max(initial=0)))
    used = kinds != Kind.COMPUTED
    # One turn may stand among the donors twice: for its exact prefix and for what resembles it.
    donors: Counter[int] = Counter()
    for index, donor in enumerate(alignment.donors):
        donors[donor.turn_id] += int((used & (alignment.donor == index)).sum())
    if plan.layer_shares:
        row_layers = sum(len(plan.required) + round(s * candidates) for s in plan.layer_shares)
    else:
        row_layers = len(plan.rows) * layers
    return Report(
        reuse_class="cold" if loosest is Kind.COMPUTED else loosest.name.lower(),
        tokens=counts,
        rows_share=row_layers / (tokens * layers),
        donors=dict(+donors),
        similarity=alignment.similarity,
        exact_tokens=exact_frontier(alignment, plan),
        stages_seconds=dict(stages_seconds),
        ttft_seconds=ttft_seconds,
        predicted_cold_seconds=plan.predicted_cold_seconds,
        reason=plan.reason.text if plan.reason else "",
        drift_kl=plan.drift_kl,
        misses=misses,
        spans=spans_of(alignment, kinds),
        reason_codes=plan.reason.codes if plan.reason else (),
    )


def saved(stages_seconds: Mapping[str, float], cold: bool, like: LikeCold | None) -> Saved | None:
    """What a turn's reuse saved, net: a full prefill of like length, less all that the memory and the rows took.

    Waiting is left out on both sides, and what every turn has. A cold turn is its own full prefill: it lost what
    looking, planning and loading in vain took.

    Args:
        stages_seconds: Seconds of each stage.
        cold: Whether everything was computed.
        like: Measured full prefills of like length; None where there are none.
    """
    spent = sum(stages_seconds.get(stage, 0.0) for stage in MEMORY_STAGES)
    if cold:
        return Saved(-spent, -spent, -spent, 1)
    if like is None:
        return None
    spent += stages_seconds.get("compute", 0.0)
    return Saved(like.seconds - spent, like.low - spent, like.high - spent, like.runs)
