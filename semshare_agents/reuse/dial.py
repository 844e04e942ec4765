"""The fidelity dial: spend rows until the predicted drift is within what the caller accepts."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from semshare_agents.model.run import DEFERRED_STEP_ROWS
from semshare_agents.reuse.kinds import exact_frontier
from semshare_agents.reuse.plan import PlanSettings, cold_plan
from semshare_agents.values import AUTO, Alignment, Fidelity, Kind, Plan, Reason, ReasonCode

SEMANTIC_SHARES = (0.1, 0.2, 0.35, 0.5, 0.75, 1.0)
"""Shares of semantic rows tried one after the other; 1.0 leaves exact and moved reuse."""
MOVED_SHARES = (0.03, 0.1, 0.25, 0.5, 1.0)
"""Shares of moved rows tried once semantic rows are all computed; 1.0 leaves exact reuse, which does not drift."""
HURRIED_STEPS = 8
"""What so many steps can make exact is hurried by default: short prompts drift most, and predictions of it err."""
ANSWER_TOKENS = 32
"""Drift is a mean over so many tokens of an answer, or over all that it may have."""


def soon_exact(alignment: Alignment) -> bool:
    """Whether a turn that is not exact is so after a few tokens of its answer, if its steps carry all they can."""
    approximate = np.flatnonzero(alignment.kind >= Kind.MOVED)
    return len(approximate) > 0 and len(alignment) - int(approximate[0]) <= HURRIED_STEPS * DEFERRED_STEP_ROWS


def rungs(settings: PlanSettings, semantic: bool) -> Iterator[PlanSettings]:
    """Settings that spend more and more rows.

    Args:
        settings: Where to begin.
        semantic: Whether there are semantic matches to spend rows on.
    """
    for share in SEMANTIC_SHARES if semantic else ():
        if share > settings.semantic_share:
            yield replace(settings, semantic_share=share)
    for share in MOVED_SHARES:
        yield replace(settings, semantic_share=1.0, moved_share=share)


def approximate_share(alignment: Alignment, plan: Plan, answer_tokens: int) -> float:
    """Share of an answer that is decoded before its turn is exact, as far as that is planned.

    Args:
        alignment: Where the KV comes from.
        plan: What is computed.
        answer_tokens: How long the answer may be.
    """
    if not plan.hurried:
        return 1.0
    steps = math.ceil((len(alignment) - exact_frontier(alignment, plan)) / DEFERRED_STEP_ROWS)
    return min(1.0, steps / max(1, min(ANSWER_TOKENS, answer_tokens)))


def plan_within(
    fidelity: Fidelity, alignment: Alignment, settings: PlanSettings, plan_of: Callable[[PlanSettings], Plan]
) -> Plan:
    """The cheapest plan whose predicted drift is within the target; at last one that reuses exact text alone.

    Args:
        fidelity: What the caller accepts.
        alignment: Where the KV comes from.
        settings: Where to begin.
        plan_of: Makes a plan with its `drift_kl`.
    """
    semantic = bool((alignment.kind == Kind.SEMANTIC).any())
    target = fidelity.target_of(semantic)
    if target is not None and settings.may_hurry and soon_exact(alignment):
        settings = replace(settings, hurried=fidelity == AUTO, certain=True)
    first = plan = plan_of(settings)
    exact_only = False
    for rung in rungs(settings, semantic):
        if target is None or plan.cold or plan.drift_kl <= target:
            break
        plan, exact_only = plan_of(rung), rung.moved_share == 1.0
    if first.cold or not (plan.cold or exact_only):
        return plan
    if len(plan.rows) == int(plan.rows[-1]) + 1:
        plan = cold_plan(len(plan.rows), None, plan.predicted_cold_seconds)
    much = f"the drift is predicted at up to {first.drift_kl:.2g} nats, more than {fidelity} allows"
    less = "computing more would be a cold prefill, or no quicker" if plan.cold else "only exact text is reused"
    return replace(plan, reason=Reason(ReasonCode.FIDELITY, f"{much}: {less}"))
