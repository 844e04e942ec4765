"""`semshare calibrate`: measure drift on pairs, fit the predictor, and test it on pairs that it was not fitted on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Any

import numpy as np

from semshare_agents.bench.cold import Cold, cold_answer
from semshare_agents.bench.configurations import configured, default_configuration
from semshare_agents.bench.fidelity import forced_logits, kl_mean
from semshare_agents.bench.pairs import fresh_memory, prompt_of
from semshare_agents.llm import SemShareLLM
from semshare_agents.model.loading import LoadedModel
from semshare_agents.request.request import Request
from semshare_agents.reuse.drift import Calibration, features, fit
from semshare_agents.settings import Settings
from semshare_agents.values import Floats, Reuse, Sampling

SHARES = (0.03, 0.1, 0.25, 0.5, 1.0)
TARGETS = (0.02, 0.05, 0.1, 0.2)


@dataclass(frozen=True)
class MeasuredTurn:
    """One turn of a calibration.

    Attributes:
        pair: Its pair.
        share: Share of semantic rows that were computed.
        features: See `semshare_agents.reuse.drift.features`.
        kl: Mean KL to the cold run, in nats.
    """

    pair: str
    share: float
    features: Floats
    kl: float


async def measure_turns(
    pairs: Sequence[dict[str, Any]],
    model: LoadedModel,
    settings: Settings,
    max_new_tokens: int,
    done: Callable[[MeasuredTurn], None] = lambda _: None,
) -> list[MeasuredTurn]:
    """Run each pair's target cold and at several shares of computed rows.

    Args:
        pairs: As from `semshare_agents.bench.pairs.read_pairs`.
        model: The model.
        settings: Everything but budgets and places.
        max_new_tokens: Tokens over which drift is measured.
        done: Called with each measured turn.
    """
    turns = []
    for pair in pairs:
        async with fresh_memory(model, settings, "memory") as llm:
            await llm.generate(pair["reference"], max_new_tokens=1)
            prompt = await prompt_of(model, pair["target"])
            cold = await cold_answer(llm.pipeline.engine, model, prompt, max_new_tokens)
            seen: set[bytes] = set()
            for share in SHARES:
                turn = await _turn(llm, pair, share, cold, settings)
                if turn is not None and turn.features.tobytes() not in seen:
                    seen.add(turn.features.tobytes())
                    turns.append(turn)
                    done(turn)
    return turns


async def _turn(
    llm: SemShareLLM, pair: dict[str, Any], share: float, cold: Cold, settings: Settings
) -> MeasuredTurn | None:
    """One turn at a share; None where nothing approximate was reused."""
    pipeline = configured(llm.pipeline, default_configuration(settings), share)
    request = Request(pair["target"], "default", Reuse.SEMANTIC, Sampling(max_new_tokens=len(cold.tokens)))
    prefilled = await pipeline.prefill(request)
    try:
        measured = features(prefilled.alignment, prefilled.plan)
        if prefilled.plan.cold or not measured.any():
            return None
        along = partial(forced_logits, prefilled.run, prefilled.logits, len(prefilled.prompt), cold.tokens)
        forced = await pipeline.engine.call(along, prefilled.run)
    finally:
        prefilled.run.close()
    return MeasuredTurn(pair["id"], share, measured, kl_mean(cold.logits, forced))


def calibrate(fingerprint: str, turns: Sequence[MeasuredTurn]) -> Calibration:
    """Fit the predictor on measured turns.

    Raises:
        CalibrationError: there are too few turns.
    """
    return fit(fingerprint, [t.features for t in turns], [t.kl for t in turns])


def tested(turns: Sequence[MeasuredTurn]) -> dict[str, Any]:
    """Predict each pair's turns from all other pairs, and turn the dial on them.

    Returns:
        `turns` (pair, share, measured and predicted KL), `within_bound` (share of turns whose KL the bound holds) and
        `targets`: for each target the share of pairs whose turn the dial keeps within it, how many of them it ran cold,
        and the mean share of semantic rows of the rest.

    Raises:
        CalibrationError: there are too few turns.
    """
    rows: list[dict[str, Any]] = []
    by_pair = {pair: list(mine) for pair, mine in groupby(turns, key=lambda t: t.pair)}
    for pair, mine in by_pair.items():
        others = calibrate("", [t for t in turns if t.pair != pair])
        rows += [
            {
                "pair": pair,
                "share": t.share,
                "kl": t.kl,
                "expected_kl": others.expected_kl(t.features),
                "bound_kl": others.bound_kl(t.features),
            }
            for t in sorted(mine, key=lambda t: t.share)
        ]
    return {
        "turns": rows,
        "within_bound": float(np.mean([row["kl"] <= row["bound_kl"] for row in rows])),
        "targets": [_dialled(rows, list(by_pair), target) for target in TARGETS],
    }


def _dialled(rows: Sequence[dict[str, Any]], pairs: Sequence[str], target: float) -> dict[str, Any]:
    """What the dial would have chosen for each pair: the least share whose bound is within the target."""
    chosen = {
        pair: next((row for row in rows if row["pair"] == pair and row["bound_kl"] <= target), None) for pair in pairs
    }
    reused = [row for row in chosen.values() if row is not None]
    return {
        "target_kl": target,
        "pairs": len(pairs),
        "within": (len(pairs) - sum(row["kl"] > target for row in reused)) / len(pairs),
        "reused_within": float(np.mean([row["kl"] <= target for row in reused])) if reused else 1.0,
        "cold": len(pairs) - len(reused),
        "share": float(np.mean([row["share"] for row in reused])) if reused else 0.0,
    }
