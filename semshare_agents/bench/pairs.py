"""`semshare bench pairs`: reference into a fresh memory, then the target cold and with reuse."""

from __future__ import annotations

import asyncio
import json
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np

from semshare_agents.bench.ablations import damaged
from semshare_agents.bench.cold import Cold, cold_answer
from semshare_agents.bench.facts import count_facts, fact_columns
from semshare_agents.bench.fidelity import agreement, decoded_logits, forced_logits, kl_mean, rouge_l
from semshare_agents.errors import ConfigurationError
from semshare_agents.llm import SemShareLLM
from semshare_agents.model.loading import LoadedModel
from semshare_agents.model.tokenise import clean_messages, tokenise
from semshare_agents.request.request import Request
from semshare_agents.settings import Settings
from semshare_agents.turn import Pipeline
from semshare_agents.turn.decode import Answer
from semshare_agents.values import AUTO, Fidelity, Ints, Reuse, Sampling


@dataclass(frozen=True)
class PairsOptions:
    """What to measure; see `semshare bench pairs --help`."""

    kinds: tuple[str, ...] = ()
    limit: int | None = None
    reuse: Reuse = Reuse.SEMANTIC
    tier: str = "memory"
    ablations: frozenset[str] = frozenset()
    max_new_tokens: int = 32
    repeat: int = 1
    baseline: bool = False
    fidelity: Fidelity = AUTO


def read_pairs(path: Path, kinds: Sequence[str] = (), limit: int | None = None) -> list[dict[str, Any]]:
    """Read a file of pairs, one JSON object a line.

    Args:
        path: The file.
        kinds: Keep kinds that begin with one of these; empty keeps all.
        limit: Most pairs of a kind.

    Raises:
        ConfigurationError: the file cannot be read, a line is malformed, or nothing is left.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as e:
        raise ConfigurationError(f"cannot read pairs from {path}: {e}") from e
    pairs: list[dict[str, Any]] = []
    count: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        pair = _parsed(line, f"{path}:{number}")
        kind = pair["kind"]
        if kinds and not any(kind.startswith(k) for k in kinds):
            continue
        count[kind] = count.get(kind, 0) + 1
        if limit is None or count[kind] <= limit:
            pairs.append(pair)
    if not pairs:
        raise ConfigurationError(f"{path} has no pairs of the kinds asked for")
    return pairs


def _parsed(line: str, place: str) -> dict[str, Any]:
    try:
        pair = json.loads(line)
    except ValueError as e:
        raise ConfigurationError(f"{place} is not JSON: {e}") from e
    if not isinstance(pair, dict) or not {"id", "kind", "reference", "target"} <= set(pair):
        raise ConfigurationError(f"{place} lacks one of id, kind, reference, target")
    return pair


async def run_pairs(
    pairs: Sequence[dict[str, Any]],
    model: LoadedModel,
    settings: Settings,
    options: PairsOptions,
    done: Callable[[dict[str, Any]], None] = lambda _: None,
) -> dict[str, Any]:
    """Measure pairs one after the other.

    Args:
        pairs: As from `read_pairs`.
        model: The model.
        settings: Everything but budgets and places, which are the bench's own.
        options: What to measure.
        done: Called with each finished row.

    Returns:
        `rows` and `summary`.
    """
    rows = []
    for index, pair in enumerate(pairs):
        async with fresh_memory(model, settings, options.tier) as llm:
            if index == 0:
                await warm_up(llm, pair)
            rows.append(await _measure(llm, pair, options))
        done(rows[-1])
    return {"rows": rows, "summary": summarise(rows)}


@asynccontextmanager
async def fresh_memory(model: LoadedModel, settings: Settings, tier: str | None = None) -> AsyncIterator[SemShareLLM]:
    """An adapter over an empty registry and store in a scratch folder.

    Args:
        model: The model.
        settings: Everything but places, and budgets where a tier is named.
        tier: The only tier with a budget, `memory` or `disk`; None for all, as the settings say.

    Raises:
        ConfigurationError: `tier` is neither `memory` nor `disk`.
    """
    if tier not in ("memory", "disk", None):
        raise ConfigurationError(f"tier must be memory or disk; got {tier!r}")
    with tempfile.TemporaryDirectory(prefix="semshare-bench-") as scratch:
        others = {"disk": ("memory_bytes",), "memory": ("disk_bytes",)}.get(tier or "", ())
        budgets = dict.fromkeys(others, 0)
        places = {"database_url": f"sqlite+aiosqlite:///{scratch}/registry.db", "store_dir": Path(scratch) / "kv"}
        async with SemShareLLM(settings.model_copy(update={**budgets, **places}), model) as llm:
            yield llm


async def warm_up(llm: SemShareLLM, pair: dict[str, Any]) -> None:
    """The first forward of a process pays for allocations that no later one does."""
    pipeline = llm.pipeline
    prompt = await prompt_of(pipeline.model, pair["target"])
    await cold_answer(pipeline.engine, pipeline.model, prompt[:256], 4)


async def prompt_of(model: LoadedModel, messages: Any) -> Ints:
    """Token ids of a message list."""
    return await asyncio.to_thread(tokenise, model.tokenizer, clean_messages(messages))


async def _measure(llm: SemShareLLM, pair: dict[str, Any], options: PairsOptions) -> dict[str, Any]:
    await llm.generate(pair["reference"], max_new_tokens=1)
    await llm.flush()
    cold, figures = await measure_turn(llm, pair["target"], options)
    row: dict[str, Any] = {"id": pair["id"], "kind": pair["kind"], **figures}
    row.update(fact_columns(pair, row["cold_text"], row["reuse_text"]))
    if options.baseline:
        row.update(await measure_reference_text(llm.pipeline, pair, cold))
    return row


async def measure_turn(
    llm: SemShareLLM,
    messages: Any,
    options: PairsOptions,
    session: str | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> tuple[Cold, dict[str, Any]]:
    """Answer messages cold, then with what the memory has; nothing is stored.

    Args:
        llm: The adapter.
        messages: The prompt.
        options: How to measure.
        session: Whose turn it is.
        tell: Told what is done now.

    Returns:
        The cold answer, and the figures of both.
    """
    pipeline = damaged(llm.pipeline, options.ablations)
    prompt = await prompt_of(pipeline.model, messages)
    tell(f"cold prefill of {len(prompt):,} tokens")
    cold = await cold_answer(pipeline.engine, pipeline.model, prompt, options.max_new_tokens, options.repeat)
    tell("with reuse")
    return cold, {"n_tokens": len(prompt), **await measure_reuse(pipeline, messages, cold, options, session)}


async def measure_reuse(
    pipeline: Pipeline, messages: Any, cold: Cold, options: PairsOptions, session: str | None = None
) -> dict[str, Any]:
    """Prefill with reuse, `repeat` times, and compare with the cold answer; the last run also generates."""
    request = Request(
        messages=messages,
        tenant="default",
        reuse=options.reuse,
        sampling=Sampling(max_new_tokens=options.max_new_tokens),
        session=session,
        fidelity=options.fidelity,
    )
    seconds: list[float] = []
    for attempt in range(options.repeat):
        start = time.perf_counter()
        prefilled = await pipeline.prefill(request)
        first = int(prefilled.logits.argmax())
        seconds.append(time.perf_counter() - start)
        if attempt < options.repeat - 1:
            prefilled.run.close()
    try:
        decoded = partial(decoded_logits, pipeline, prefilled.run, prefilled.logits, cold.tokens)
        forced = await pipeline.engine.call(decoded, prefilled.run)
        answer = Answer()
        if len(cold.tokens) > 1:
            prefilled.run.close()
            prefilled = await pipeline.prefill(request)
        async for _ in pipeline.generate(prefilled, answer):
            pass
    finally:
        prefilled.run.close()
    assert answer.tokens[0] == first
    report, took = prefilled.report, float(np.median(seconds))
    return {
        "class": report.reuse_class,
        "tokens": dict(report.tokens),
        "rows_share": report.rows_share,
        "similarity": report.similarity,
        "ttft_cold_s": cold.seconds,
        "ttft_reuse_s": took,
        "stages_s": dict(report.stages_seconds),
        "speedup": cold.seconds / took,
        "kl_mean": kl_mean(cold.logits, forced),
        "top1_agreement": agreement(cold.logits, forced),
        "rouge_l": rouge_l(answer.text, cold.text),
        "cold_text": cold.text,
        "reuse_text": answer.text,
        "drift_kl": report.drift_kl,
        "reason": report.reason,
    }


async def measure_reference_text(pipeline: Pipeline, pair: dict[str, Any], cold: Cold) -> dict[str, float]:
    """The baseline to beat: ask the last paragraph of the target of the reference's text, in full."""
    messages = [dict(m) for m in clean_messages(pair["reference"])]
    question = clean_messages(pair["target"])[-1]["content"].rpartition("\n\n")[2]
    text, cut, _ = messages[-1]["content"].rpartition("\n\n")
    messages[-1]["content"] = f"{text}{cut}{question}"
    request = Request(messages, "default", Reuse.OFF, Sampling(max_new_tokens=len(cold.tokens)))
    prefilled = await pipeline.prefill(replace(request, store=False))
    try:
        along = partial(forced_logits, prefilled.run, prefilled.logits, len(prefilled.prompt), cold.tokens)
        forced = await pipeline.engine.call(along, prefilled.run)
    finally:
        prefilled.run.close()
    return {
        "kl_reference_text": kl_mean(cold.logits, forced),
        "agreement_reference_text": agreement(cold.logits, forced),
    }


SUMMED = (
    "n_tokens",
    "rows_share",
    "ttft_cold_s",
    "ttft_reuse_s",
    "speedup",
    "kl_mean",
    "top1_agreement",
    "rouge_l",
    "kl_reference_text",
    "agreement_reference_text",
)


def summarise(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Medians, means and worst drift of each kind and of all, how often each class occurred, what became of facts."""
    summary: dict[str, Any] = {}
    kinds = {kind: [row for row in rows if row["kind"] == kind] for kind in dict.fromkeys(row["kind"] for row in rows)}
    for kind, mine in {**kinds, **({"all": list(rows)} if len(kinds) > 1 else {})}.items():
        keys = [key for key in SUMMED if key in mine[0]]
        summary[kind] = {
            "pairs": len(mine),
            "classes": {c: sum(r["class"] == c for r in mine) for c in dict.fromkeys(r["class"] for r in mine)},
            "median": {key: median(row[key] for row in mine) for key in keys},
            "mean": {key: mean(row[key] for row in mine) for key in keys},
            "worst": {"kl_mean": max(row["kl_mean"] for row in mine)},
        }
        if facts := count_facts(mine):
            summary[kind]["facts"] = facts
    return summary
