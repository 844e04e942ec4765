"""Which stored KV a prompt takes, and which of its rows are computed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from semshare_agents.match.facts import FACT_CHECKS, FactCheck
from semshare_agents.match.lexicon import Lexicon
from semshare_agents.match.matchers import Matcher, along_path
from semshare_agents.model.loading import LoadedModel
from semshare_agents.request.request import Request
from semshare_agents.reuse.certain import spread_of
from semshare_agents.reuse.cost import CostModel
from semshare_agents.reuse.dial import approximate_share, plan_within
from semshare_agents.reuse.drift import DEFAULTS, Calibration, features
from semshare_agents.reuse.plan import PlanSettings, cold_plan, make_plan
from semshare_agents.reuse.strategies import SelectionStrategy
from semshare_agents.values import Alignment, Fidelity, Plan, Reason, Reuse

JOINING_SECONDS = 0.05
"""What it takes to have another turn's KV registered and to find it."""


@dataclass(frozen=True)
class Planner:
    """Plans turns. Another way of planning is another planner.

    Attributes:
        lexicon: What matching knows of the model's tokens.
        strategy: Chooses semantic rows.
        settings: Shares and sizes of plans.
        cost: Predicts times; None where nothing can be reused anyway.
        calibration: Predicts drift.
        matcher: Gives semantically matched tokens their reference tokens.
        similarity_threshold: Least similarity of a semantic donor.
        fact_guard: How facts are protected: a name of `FACT_CHECKS`, or `auto` for what a request's fidelity asks for.
    """

    lexicon: Lexicon
    strategy: SelectionStrategy
    settings: PlanSettings
    cost: CostModel | None = None
    calibration: Calibration = DEFAULTS
    matcher: Matcher = along_path
    similarity_threshold: float = 0.55
    fact_guard: str = "auto"

    @property
    def least_tokens(self) -> int:
        """Shorter spans are not worth their while: a moved span's head is computed again."""
        return self.settings.head_tokens + self.settings.tail_tokens

    def fact_check(self, fidelity: Fidelity) -> FactCheck | None:
        """How facts are protected in a turn; None where they are not."""
        return FACT_CHECKS[fidelity.like if self.fact_guard == "auto" else self.fact_guard]

    def plan(self, alignment: Alignment, request: Request, model: LoadedModel, on_disk: Callable[[str], bool]) -> Plan:
        """The rows to compute, within what the request allows.

        Args:
            alignment: Where the KV could come from.
            request: What is asked for.
            model: Whose rows.
            on_disk: Whether a block would have to come from disk.
        """
        cost = self.cost
        assert cost is not None

        def plan_of(chosen: PlanSettings) -> Plan:
            plan = make_plan(alignment, chosen, self.strategy, cost, model.layers, on_disk)
            if plan.cold:
                return plan
            drift = self.calibration.bound_kl(features(alignment, plan))
            share = approximate_share(alignment, plan, request.sampling.likely_tokens)
            return replace(plan, drift_kl=drift * share, spread_logits=spread_of(drift) if chosen.certain else 0.0)

        plan = plan_within(request.fidelity, alignment, self.settings, plan_of)
        narrowed = model.support.reason if request.reuse.allows(Reuse.MOVED) else None
        return replace(plan, reason=plan.reason or alignment.refused or narrowed)

    def worth_waiting(self, stored: int, ahead: int) -> bool:
        """Whether to wait for another turn's prefix of `ahead` tokens where one of `stored` is found already.

        The other turn has begun before, and both are computed on one model: what has to be gained is what it takes to
        read its KV out and to look once more.
        """
        if self.cost is None:
            return False
        return self.cost.cold_seconds(ahead) - self.cost.cold_seconds(stored) > JOINING_SECONDS

    def cold(self, tokens: int, reason: Reason | None) -> Plan:
        """Everything is computed."""
        return cold_plan(tokens, reason, 0.0 if self.cost is None else self.cost.cold_seconds(tokens))
