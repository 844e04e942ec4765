"""`semshare bench repair`: how fast drift dies out of an answer whose decoding steps carry repair."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import mean, median
from typing import Any

import torch

from semshare_agents.bench.cold import Cold, cold_answer
from semshare_agents.bench.pairs import fresh_memory, prompt_of
from semshare_agents.errors import ConfigurationError
from semshare_agents.llm import SemShareLLM
from semshare_agents.model.loading import LoadedModel
from semshare_agents.model.run import RowRun, Step
from semshare_agents.observe.drift import kl_tokens
from semshare_agents.request.request import Request
from semshare_agents.settings import Settings
from semshare_agents.turn import Pipeline
from semshare_agents.values import Ints, Reuse, Sampling

FIRST_BUCKET_TOKENS = 8


@dataclass(frozen=True)
class RepairOptions:
    """What to measure.

    Attributes:
        rates: Rows repaired with each decoding step, ascending, 0 first; None, at the end, for what the settings give.
        max_new_tokens: Longest cold answer to decode along.
        reuse: Loosest kind of reuse.
    """

    rates: tuple[int | None, ...]
    max_new_tokens: int = 64
    reuse: Reuse = Reuse.SEMANTIC


def parse_rates(text: str) -> tuple[int | None, ...]:
    """Rates from a list such as `0,4,8,auto`, ascending; 0, the yardstick, is always among them.

    Raises:
        ConfigurationError: an entry is neither `auto` nor a whole number, or it is negative.
    """
    words = [word.strip() for word in text.split(",")]
    try:
        rates = {int(word) for word in words if word != "auto"}
    except ValueError:
        raise ConfigurationError(f"rates must be whole numbers or auto, commas between; got {text!r}") from None
    if min(rates, default=0) < 0:
        raise ConfigurationError(f"rates must not be negative; got {text!r}")
    by_settings: tuple[None, ...] = (None,) if "auto" in words else ()
    return (*sorted({0, *rates}), *by_settings)


def buckets(tokens: int) -> list[tuple[int, int]]:
    """Ranges of answer tokens `(first, past the last)`: 8 tokens, then twice as far each, up to `tokens`."""
    out, first, last = [], 0, FIRST_BUCKET_TOKENS
    while first < tokens:
        out.append((first, min(last, tokens)))
        first, last = last, 2 * last
    return out


async def run_repair(
    pairs: Sequence[dict[str, Any]],
    model: LoadedModel,
    settings: Settings,
    options: RepairOptions,
    done: Callable[[dict[str, Any]], None] = lambda _: None,
) -> dict[str, Any]:
    """Measure pairs one after the other, each in a memory that holds its reference alone.

    Args:
        pairs: As from `bench.pairs.read_pairs`.
        model: The model.
        settings: Everything but budgets and places, which are the bench's own.
        options: What to measure.
        done: Called with each finished row.

    Returns:
        `rows` and `summary`.

    Raises:
        ConfigurationError: the model's KV cannot be reused, so nothing can be repaired.
    """
    if model.support.rows is None:
        raise ConfigurationError(f"nothing to repair, choose another model: {model.support.reason}")
    rows = []
    for pair in pairs:
        async with fresh_memory(model, settings, "memory") as llm:
            rows.append(await _measure(llm, pair, options))
        done(rows[-1])
    return {"rows": rows, "summary": summarise(rows, options)}


async def _measure(llm: SemShareLLM, pair: dict[str, Any], options: RepairOptions) -> dict[str, Any]:
    pipeline = llm.pipeline
    await llm.generate(pair["reference"], max_new_tokens=1)
    await llm.flush()
    prompt = await prompt_of(pipeline.model, pair["target"])
    cold = await cold_answer(pipeline.engine, pipeline.model, prompt, options.max_new_tokens)
    request = Request(pair["target"], "default", options.reuse, Sampling(max_new_tokens=options.max_new_tokens))
    by_rate: list[dict[str, Any]] = []
    for rate in options.rates:
        prefilled = await pipeline.prefill(request)
        run, report = prefilled.run, prefilled.report
        try:
            if run.by_rows is None:
                raise ConfigurationError(f"{pair['id']} cannot be repaired, leave it out: {report.reason}")
            first = prefilled.logits
            step = partial(_step, pipeline, rate)
            figures = await pipeline.engine.call(partial(_decoded, run.by_rows, first, cold, step), run)
            by_rate.append({"rate": "auto" if rate is None else rate, **figures})
        finally:
            run.close()
    return {
        "id": pair["id"],
        "kind": pair["kind"],
        "n_tokens": len(prompt),
        "answer_tokens": len(cold.tokens),
        "class": report.reuse_class,
        "reason": report.reason,
        "rates": by_rate,
    }


def _step(pipeline: Pipeline, rate: int | None, run: RowRun, token: int) -> Step:
    """The step that appends a token and repairs at a rate; None for what the settings give."""
    return pipeline.next_step(run, token) if rate is None else run.next(token, rate)


def _decoded(run: RowRun, first: torch.Tensor, cold: Cold, step: Callable[[RowRun, int], Step]) -> dict[str, Any]:
    """Decode along the cold answer; runs on the engine's thread."""
    fed: Ints = cold.tokens[:-1]
    logits, start = [first], time.perf_counter()
    for token in fed:
        logits.append(run.compute(step(run, int(token)))[-1])
        logits[-1].argmax().item()  # a device has finished the step only once its result is read
    took = time.perf_counter() - start
    return {
        "kl": kl_tokens(cold.logits, torch.stack(logits)).tolist(),
        "tokens_per_second": len(fed) / took if len(fed) else None,
        "exact_tokens": run.exact,
        "tokens": run.length,
    }


def summarise(rows: Sequence[dict[str, Any]], options: RepairOptions) -> dict[str, Any]:
    """Figures of each rate over the pairs that reused approximately or exactly; a cold pair has nothing to repair.

    Returns:
        `pairs`, `cold` (how many of them ran cold) and `rates`: for each the mean KL over the tokens of a bucket and
        then over the pairs whose answers reach it, medians of speed, and the mean share of tokens exact in the end.
    """
    warm = [row for row in rows if row["class"] != "cold"]
    summary: list[dict[str, Any]] = []
    for index, rate in enumerate(options.rates if warm else ()):
        mine = [row["rates"][index] for row in warm]
        kl = {}
        for a, b in buckets(options.max_new_tokens):
            means = [mean(figures["kl"][a:b]) for figures in mine if len(figures["kl"]) > a]
            if means:
                kl[f"{a}-{b - 1}"] = {"mean": mean(means), "pairs": len(means)}
        speeds = [f["tokens_per_second"] for f in mine if f["tokens_per_second"]]
        ratios = [
            figures["tokens_per_second"] / row["rates"][0]["tokens_per_second"]
            for figures, row in zip(mine, warm, strict=True)
            if figures["tokens_per_second"]
        ]
        summary.append(
            {
                "rate": "auto" if rate is None else rate,
                "kl": kl,
                "tokens_per_second": median(speeds) if speeds else None,
                "speed_ratio": median(ratios) if ratios else None,
                "exact_share": mean(figures["exact_tokens"] / figures["tokens"] for figures in mine),
            }
        )
    return {"pairs": len(rows), "cold": len(rows) - len(warm), "rates": summary}
