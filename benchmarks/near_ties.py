"""Near ties: what drift does to the lead of one token over the next, and what it costs to be certain of it.

Each pair's target is answered greedily by a cold run and, along that answer, with reuse as `auto` plans it, but without
computing near ties to the end (sampling has none). Of each token until the turn is exact: the lead of the likeliest
token with reuse, the same two tokens' lead in the cold run, the KL, and whether the likeliest is another. From that
follows what any pair of limits would have done, without timing anything; pairs are those of `semshare bench make`.

    python benchmarks/near_ties.py PAIRS.jsonl
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from semshare_agents.bench.cold import cold_answer
from semshare_agents.bench.pairs import fresh_memory, prompt_of, read_pairs
from semshare_agents.llm import SemShareLLM
from semshare_agents.model.loading import load
from semshare_agents.observe.drift import kl_mean
from semshare_agents.request.request import Request
from semshare_agents.reuse.certain import FIRST_SPREADS, LATER_SPREADS
from semshare_agents.settings import load_settings
from semshare_agents.turn import Pipeline
from semshare_agents.turn.state import Prefilled
from semshare_agents.values import AUTO, Ints, Reuse, Sampling

LIMITS = ((0.0, 0.0), (1.0, 4.0), (1.3, 4.0), (1.6, 4.0), (FIRST_SPREADS, LATER_SPREADS), (3.0, 4.0), (4.0, 4.0))


@dataclass(frozen=True)
class Token:
    """One token of an answer, before the turn is exact: leads in logits, KL in nats."""

    lead: float
    cold_lead: float
    kl: float
    other: bool


@dataclass(frozen=True)
class Turn:
    """A target: its prompt's length, by how much drift is predicted to move a lead, and its tokens."""

    tokens: int
    spread: float
    answer: list[Token]

    def outcome(self, first: float, later: float) -> str:
        """What limits in spreads make of it: `first` or `later` computed to the end, `other` or `same` answer."""
        for at, token in enumerate(self.answer):
            if token.lead < (later if at else first) * self.spread:
                return "later" if at else "first"
            if token.other:
                return "other"
        return "same"


def measured(pipeline: Pipeline, prefilled: Prefilled, cold: torch.Tensor, fed: Ints) -> list[Token]:
    """Decode along the cold answer, `fed`, until the turn is exact; `cold` are the logits it was drawn from."""
    run, logits, found = prefilled.run, prefilled.logits, []
    for at, (there, token) in enumerate(zip(cold, fed, strict=True)):
        if run.by_rows is None or run.exact >= run.length:
            break
        (first, second), (one, two) = logits.float().topk(2).values.tolist(), logits.topk(2).indices.tolist()
        cold_lead = float(there[one] - there[two])
        kl = kl_mean(there[None], logits[None])
        found.append(Token(first - second, cold_lead, kl, one != int(there.argmax())))
        if at < len(fed) - 1:
            logits = run.compute(pipeline.next_step(run, int(token)))[-1]
    return found


async def turn_of(llm: SemShareLLM, pair: dict[str, Any], count: int) -> Turn:
    """One pair in a fresh memory."""
    # No turn runs cold because the machine is busy.
    planner = llm.pipeline.planner
    pipeline = replace(llm.pipeline, planner=replace(planner, settings=replace(planner.settings, min_gain=0.0)))
    await llm.generate(pair["reference"], max_new_tokens=1)
    await llm.flush()
    prompt = await prompt_of(pipeline.model, pair["target"])
    cold = await cold_answer(pipeline.engine, pipeline.model, prompt, count)
    sampling = Sampling(max_new_tokens=count, temperature=1.0)
    prefilled = await pipeline.prefill(Request(pair["target"], "default", Reuse.MOVED, sampling, fidelity=AUTO))
    try:
        decode = partial(measured, pipeline, prefilled, cold.logits, cold.tokens)
        answer = await pipeline.engine.call(decode, prefilled.run)
    finally:
        prefilled.run.close()
    return Turn(len(prompt), prefilled.plan.spread_logits, answer)


def told(turns: Sequence[Turn]) -> str:
    """The relation between KL and leads, and what each pair of limits would do."""
    tokens = [token for turn in turns for token in turn.answer]
    moved = np.asarray([t.lead - t.cold_lead for t in tokens])
    kl = np.asarray([t.kl for t in tokens])
    ratio = float(np.sqrt((moved**2).sum() / (2 * kl).sum()))
    short = np.quantile(np.abs(moved) / np.sqrt(2 * np.maximum(kl, 1e-9)), (0.5, 0.9, 0.99))
    lines = [
        f"{len(turns)} turns, {len(tokens)} tokens before they are exact; drift of KL k moves a lead by {ratio:.2f} "
        f"sqrt(2 k) (rms), half within {short[0]:.2f}, 90 % {short[1]:.2f}, 99 % {short[2]:.2f}",
        "limits of the first and of later tokens, in spreads: turns computed to the end at the first token, at a later "
        "one; turns with another answer",
    ]
    for first, later in LIMITS:
        outcomes = [turn.outcome(first, later) for turn in turns]
        lines.append(
            f"{first:.1f}, {later:.1f}: {outcomes.count('first')}, {outcomes.count('later')}; {outcomes.count('other')}"
        )
    return "\n".join(lines)


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs", type=Path)
    parser.add_argument("--model", default=None)
    parser.add_argument("--home", type=Path, default=None)
    parser.add_argument("--max-new-tokens", type=int, default=32)
    given = parser.parse_args()
    settings = load_settings(model=given.model, home=given.home, repair_idle=False)
    model, turns = load(settings.model, settings.home), []
    for pair in read_pairs(given.pairs):
        async with fresh_memory(model, settings, "memory") as llm:
            turns.append(await turn_of(llm, pair, given.max_new_tokens))
    print(told([turn for turn in turns if turn.spread]))


if __name__ == "__main__":
    asyncio.run(main())
