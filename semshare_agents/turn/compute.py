"""Compute a prompt's rows: all of them, or those that a plan chooses; learn from what they take."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch

from semshare_agents.engine import Engine, Within
from semshare_agents.model.generate import Sampler
from semshare_agents.model.run import RowRun, Run
from semshare_agents.retain import TailObserver
from semshare_agents.reuse.certain import FIRST_SPREADS, finished, uncertain
from semshare_agents.reuse.cost import CostModel
from semshare_agents.reuse.kinds import exact_frontier
from semshare_agents.reuse.look import gathered, gathering_layers, observation_window, seen_rows
from semshare_agents.reuse.schedule import narrowing
from semshare_agents.values import Alignment, Ints, Kind, Plan


@dataclass(frozen=True)
class Computing:
    """What computing a prompt needs.

    Attributes:
        engine: The way onto the model.
        cost: Learns from what rows take; None where nothing can be reused anyway.
        layers: Layers of the model.
        within: Entered around what is computed.
    """

    engine: Engine
    cost: CostModel | None
    layers: int
    within: Within

    async def all_rows(self, run: Run, prompt: Ints, refused: bool) -> torch.Tensor:
        """A full prefill; returns the last row's logits, `(vocabulary,)`.

        Args:
            run: Where to.
            prompt: Token ids, shape `(tokens,)`.
            refused: Whether something could have been reused.
        """
        if self.cost is not None and refused:
            self.cost.saw_refusal()
        took = await self.engine.compute(run.whole(prompt), self.within)
        if self.cost is not None and run.by_rows is not None:
            self.cost.saw_cold(len(prompt), took)
        return took.result[-1]

    async def chosen_rows(
        self, run: RowRun, prompt: Ints, alignment: Alignment, plan: Plan, sampler: Sampler
    ) -> tuple[Plan, torch.Tensor]:
        """A plan's rows, and all others where drift could decide which token comes first.

        Args:
            run: Holds the KV of the other rows.
            prompt: Token ids, shape `(tokens,)`.
            alignment: Where that KV comes from.
            plan: The rows.
            sampler: Will draw the first token.

        Returns:
            The plan as it was carried out, and the last row's logits, `(vocabulary,)`.
        """
        run.semantic, run.hurried = bool((alignment.kind == Kind.SEMANTIC).any()), plan.hurried
        plan, logits = await self._planned(run, prompt, alignment, plan)
        run.spread_logits, exact = plan.spread_logits, run.exact
        logits = await settled(self.engine, run, sampler, logits, FIRST_SPREADS, self.within)
        return (plan if run.exact == exact else finished(plan, exact, len(prompt))), logits

    async def _planned(self, run: RowRun, prompt: Ints, alignment: Alignment, plan: Plan) -> tuple[Plan, torch.Tensor]:
        """The plan's rows, then, where it looks, the rows that the prompt's end looked at and that end again.

        What late looks choose, and that end once more, is left to the first decoding steps.
        """
        looking = observation_window(plan.rows, len(prompt))
        observer = TailObserver(len(prompt) - looking, gathering_layers(self.layers)) if plan.looks else None
        frontier = exact_frontier(alignment, plan)
        step = run.part(prompt, plan.rows, frontier, narrowing(plan), plan.check_layer, observer)
        took = await self.engine.compute(step, self.within)
        logits = took.result[-1]
        if observer is None:
            if self.cost is not None and not plan.layer_shares:
                self.cost.saw_rows(plan.rows, took)
            return plan, logits
        attention = await self.engine.call(lambda: gathered(observer.attention()), run, self.within)
        end = np.arange(len(prompt) - looking, len(prompt))
        late = seen_rows([look for look in plan.looks if look.late], attention)
        if len(late):
            run.deferred = np.union1d(late, end)
        seen = seen_rows([look for look in plan.looks if not look.late], attention)
        if not len(seen):
            return plan, logits
        plan = replace(plan, rows=np.union1d(plan.rows, seen), required=np.union1d(plan.required, seen))
        step = run.part(prompt, np.union1d(seen, end), exact_frontier(alignment, plan))
        return plan, (await self.engine.compute(step, self.within)).result[-1]


async def settled(
    engine: Engine, run: Run, sampler: Sampler, logits: torch.Tensor, spreads: float, within: Within
) -> torch.Tensor:
    """The logits from which a token may be drawn, `(vocabulary,)`: a cold run's where drift could decide which it is.

    Args:
        engine: Computes what is left.
        run: Holds the turn's KV.
        sampler: Will draw the token.
        logits: The last row's, shape `(vocabulary,)`.
        spreads: From which lead on, in the run's spreads, they are taken as they are.
        within: Entered around what is computed.
    """
    rows = run.by_rows
    if rows is None or not rows.spread_logits or rows.exact >= rows.length:
        return logits
    if await engine.call(partial(uncertain, run, sampler, logits, spreads), run, within):
        logits = (await engine.compute(rows.rest(), within)).result[-1]
    return logits
