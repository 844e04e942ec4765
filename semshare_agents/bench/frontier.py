"""`semshare bench frontier`: what each strategy gives for each share of rows, as speed-up against drift.

A pair's reference is stored once and its target run cold once; every configuration is then measured against both, in
one process and one memory, so that the points of a plot differ in nothing but the configuration.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from statistics import mean, median
from typing import Any

from semshare_agents.bench.ablations import NO_RECOMPUTE
from semshare_agents.bench.cold import Cold, cold_answer
from semshare_agents.bench.configurations import Configuration, configured
from semshare_agents.bench.fidelity import agreement, kl_mean
from semshare_agents.bench.floor import in_bfloat16, stock_logits, two_pass_logits
from semshare_agents.bench.pairs import (
    PairsOptions,
    fresh_memory,
    measure_reference_text,
    measure_reuse,
    prompt_of,
    warm_up,
)
from semshare_agents.errors import ConfigurationError
from semshare_agents.llm import SemShareLLM
from semshare_agents.model.loading import LoadedModel
from semshare_agents.settings import Settings
from semshare_agents.values import Ints

SHARES = (0.01, 0.03, 0.1, 0.25, 0.5)


@dataclass(frozen=True)
class FrontierOptions:
    """What to sweep.

    Attributes:
        lines: Configurations measured at every share.
        shares: Shares of the semantically matched rows that are computed again, each in [0, 1].
        ablations: Configurations measured at `ablation_share` only.
        ablation_share: See `ablations`.
        bfloat16: Whether to run each target cold in bfloat16 as well, as a second noise floor.
        pairs: How each point is measured.
    """

    lines: tuple[Configuration, ...]
    shares: tuple[float, ...] = SHARES
    ablations: tuple[Configuration, ...] = ()
    ablation_share: float = 0.03
    bfloat16: bool = False
    pairs: PairsOptions = field(default_factory=PairsOptions)

    def __post_init__(self) -> None:
        if not self.shares or not all(0.0 <= share <= 1.0 for share in self.shares):
            raise ConfigurationError(f"shares must lie between 0 and 1; got {', '.join(map(str, self.shares))}")

    def points(self) -> list[tuple[Configuration, float, bool]]:
        """Every `(configuration, share, whether it is an ablation)` to measure."""
        swept = [(line, share, False) for line in self.lines for share in self.shares]
        return swept + [(ablation, self.ablation_share, True) for ablation in self.ablations]


async def run_frontier(
    pairs: Sequence[dict[str, Any]],
    model: LoadedModel,
    settings: Settings,
    options: FrontierOptions,
    done: Callable[[dict[str, Any]], None] = lambda _: None,
) -> dict[str, Any]:
    """Measure every configuration on every pair.

    Args:
        pairs: As from `semshare_agents.bench.pairs.read_pairs`.
        model: The model.
        settings: Everything but budgets and places, which are the bench's own.
        options: What to sweep.
        done: Called with each finished row.

    Returns:
        `rows` (one a pair and point), `baselines` (one a pair) and `summary` (see `summarise`).

    Raises:
        ConfigurationError: the model's KV cannot be reused.
    """
    if model.support.rows is None:
        raise ConfigurationError(f"this model's KV cannot be reused: {model.support.reason}")
    rows: list[dict[str, Any]] = []
    baselines: list[dict[str, Any]] = []
    other: Any = None
    for index, pair in enumerate(pairs):
        async with fresh_memory(model, settings, options.pairs.tier) as llm:
            if index == 0:
                await warm_up(llm, pair)
                other = in_bfloat16(llm.pipeline) if options.bfloat16 else None
            prompt, cold = await _prepared(llm, pair, options)
            baselines.append(await _baseline(llm, pair, prompt, cold, other))
            for configuration, share, is_ablation in options.points():
                point = configured(llm.pipeline, configuration, share)
                measured = await measure_reuse(point, pair["target"], cold, options.pairs)
                names = {"configuration": configuration.name, "share": share, "ablation": is_ablation}
                rows.append({"id": pair["id"], "kind": pair["kind"], "n_tokens": len(prompt), **names, **measured})
                done(rows[-1])
    return {"rows": rows, "baselines": baselines, "summary": summarise(rows, baselines)}


async def _prepared(llm: SemShareLLM, pair: dict[str, Any], options: FrontierOptions) -> tuple[Ints, Cold]:
    """Store the reference, run the target cold, and run it once untimed so that no point pays for being the first."""
    pipeline, how = llm.pipeline, options.pairs
    await llm.generate(pair["reference"], max_new_tokens=1)
    await llm.flush()
    prompt = await prompt_of(pipeline.model, pair["target"])
    cold = await cold_answer(pipeline.engine, pipeline.model, prompt, how.max_new_tokens, how.repeat)
    first = configured(pipeline, options.points()[0][0], min(options.shares))
    await measure_reuse(first, pair["target"], cold, replace(how, repeat=1))
    return prompt, cold


async def _baseline(llm: SemShareLLM, pair: dict[str, Any], prompt: Ints, cold: Cold, other: Any) -> dict[str, Any]:
    pipeline = llm.pipeline
    again = await pipeline.engine.call(lambda: two_pass_logits(pipeline, prompt, cold))
    row = {"id": pair["id"], "kind": pair["kind"], "n_tokens": len(prompt), "ttft_cold_s": cold.seconds}
    row |= await measure_reference_text(pipeline, pair, cold)
    row |= {"kl_floor": kl_mean(cold.logits, again), "agreement_floor": agreement(cold.logits, again)}
    if other is not None:
        rough = await pipeline.engine.call(lambda: stock_logits(other, prompt, cold))
        row |= {"kl_bfloat16": kl_mean(cold.logits, rough), "agreement_bfloat16": agreement(cold.logits, rough)}
    return row


def summarise(rows: Sequence[dict[str, Any]], baselines: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Points and baselines over the pairs that every configuration reused alike.

    A pair that some configuration refused or reused by another kind would move that configuration's point for
    another reason than the one the plot is about; it is left out of all points and named.

    Args:
        rows: One a pair and point.
        baselines: One a pair.

    Returns:
        `pairs`, `left_out` (ids), `points` (median speed-up, means of the rest) and `baselines`
        (`reference_text`, `floor` and, where measured, `bfloat16`, each with `kl` and `agreement`).

    Raises:
        ConfigurationError: no pair was reused alike by all.
    """
    classes: dict[str, set[str]] = {}
    for row in rows:
        classes.setdefault(row["id"], set()).add(row["class"])
    alike = {name for name, found in classes.items() if len(found) == 1 and found != {"cold"}}
    if not alike:
        raise ConfigurationError(
            "no pair was reused by every configuration: give pairs whose references resemble their targets, or lower "
            "SEMSHARE_SIMILARITY_THRESHOLD"
        )
    points: dict[tuple[str, float, bool], list[dict[str, Any]]] = {}
    for row in rows:
        if row["id"] in alike:
            points.setdefault((row["configuration"], row["share"], row["ablation"]), []).append(row)
    counted = [row for row in baselines if row["id"] in alike]
    return {
        "pairs": len(alike),
        "left_out": [name for name in classes if name not in alike],
        "points": [
            {"configuration": name, "share": share, "ablation": is_ablation, **_point(mine)}
            for (name, share, is_ablation), mine in points.items()
        ],
        "baselines": {
            name: {figure: mean(row[f"{figure}_{name}"] for row in counted) for figure in ("kl", "agreement")}
            for name in ("reference_text", "floor", "bfloat16")
            if f"kl_{name}" in counted[0]
        },
    }


def _point(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    return {
        "speedup": median(row["speedup"] for row in rows),
        "ttft_reuse_s": median(row["ttft_reuse_s"] for row in rows),
        "rows_share": mean(row["rows_share"] for row in rows),
        "kl": mean(row["kl_mean"] for row in rows),
        "agreement": mean(row["top1_agreement"] for row in rows),
        "rouge_l": mean(row["rouge_l"] for row in rows),
    }


def frontier_table(summary: dict[str, Any]) -> list[dict[str, str]]:
    """The points and baselines as a table's rows, by column title."""
    table = [
        {
            "configuration": point["configuration"],
            "share": f"{100 * point['share']:g} %" if point["configuration"] != NO_RECOMPUTE else "0 %",
            "rows": f"{point['rows_share']:.3f}",
            "speed-up": f"{point['speedup']:.1f}x",
            "KL": f"{point['kl']:.3g}",
            "top-1": f"{point['agreement']:.3f}",
            "ROUGE-L": f"{point['rouge_l']:.3f}",
        }
        for point in summary["points"]
    ]
    words = {"reference_text": "reference text", "floor": "cold noise floor", "bfloat16": "bfloat16 cold run"}
    for name, figures in summary["baselines"].items():
        blank = dict.fromkeys(table[0], "")
        table.append(
            blank | {"configuration": words[name], "KL": f"{figures['kl']:.3g}", "top-1": f"{figures['agreement']:.3f}"}
        )
    return table
