"""The fidelity dial: spend rows until the predicted drift is within what the caller accepts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from semshare_agents.reuse.plan import PlanSettings, cold_plan
from semshare_agents.values import Fidelity, Plan

SEMANTIC_SHARES = (0.1, 0.2, 0.35, 0.5, 0.75, 1.0)
"""Shares of semantic rows tried one after the other; 1.0 leaves exact and moved reuse."""
LOOK_SHARES = (0.04, 0.1, 0.25)
"""Shares of a second pass over moved text, tried once semantic rows are all computed."""


def rungs(settings: PlanSettings) -> Iterator[PlanSettings]:
    """Settings that spend more and more rows, beginning with the given ones."""
    yield settings
    for share in SEMANTIC_SHARES:
        if share > settings.semantic_share:
            yield replace(settings, semantic_share=share)
    for share in LOOK_SHARES:
        if share > settings.look_share or settings.look_late:
            yield replace(settings, semantic_share=1.0, look_share=share, look_late=False)


def plan_within(fidelity: Fidelity, settings: PlanSettings, plan_of: Callable[[PlanSettings], Plan]) -> Plan:
    """The cheapest plan whose predicted drift is within the target; a cold one where there is none.

    Args:
        fidelity: What the caller accepts.
        settings: Where to begin.
        plan_of: Makes a plan with its `drift_kl`.
    """
    if fidelity.target_kl is None:
        return plan_of(settings)
    before = -1.0
    for rung in rungs(settings):
        plan = plan_of(rung)
        if plan.cold or plan.drift_kl <= fidelity.target_kl:
            return plan
        if plan.drift_kl == before and rung.look_share != settings.look_share:
            break
        before = plan.drift_kl
    seconds = plan.predicted_cold_seconds
    reason = f"the drift is predicted at up to {plan.drift_kl:.2g} nats, more than {fidelity} allows"
    return cold_plan(int(plan.rows[-1]) + 1, reason, seconds)
