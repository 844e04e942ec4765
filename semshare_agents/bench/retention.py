"""`semshare bench retention`: decoding on a part of a prompt's KV against decoding on all of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any

import numpy as np
import torch

from semshare_agents.bench.fidelity import agreement, forced_logits, kl_mean, rouge_l
from semshare_agents.errors import ConfigurationError
from semshare_agents.kv.buffer import BufferPool
from semshare_agents.model.loading import LoadedModel
from semshare_agents.model.run import RowRun, Run
from semshare_agents.model.tokenise import clean_messages, tokenise
from semshare_agents.retain import Retention
from semshare_agents.retain.run import RetainedRun, retained
from semshare_agents.values import Ints


@dataclass(frozen=True)
class Variant:
    """A retention and how what it keeps is held."""

    retention: Retention
    int8: bool = False


def run_retention(
    pairs: Sequence[dict[str, Any]],
    model: LoadedModel,
    variants: Sequence[Variant],
    max_new_tokens: int,
    done: Callable[[dict[str, Any]], None] = lambda _: None,
) -> dict[str, Any]:
    """Prefill each pair's target in full once, then answer it on all KV and on what each variant keeps.

    Args:
        pairs: As from `semshare_agents.bench.pairs.read_pairs`; references are not used.
        model: The model.
        variants: What to measure.
        max_new_tokens: Length of the answers.
        done: Called with each finished row.

    Returns:
        `rows`, one a pair and variant, and `summary`, the means of each variant.

    Raises:
        ConfigurationError: the model's rows cannot be computed one by one.
    """
    rows_model = model.support.rows
    if rows_model is None:
        raise ConfigurationError(f"retention needs KV that can be addressed: {model.support.reason}")
    pool, rows = BufferPool(rows_model.layout, rows_model.device), []
    for pair in pairs:
        prompt = tokenise(model.tokenizer, clean_messages(pair["target"]))
        run = RowRun(rows_model, pool, len(prompt) + max_new_tokens)
        try:
            first = run.cold(prompt)
            full, answer = _answer(run, first, max_new_tokens, model)
            for variant in variants:
                row = _measured(model, run, prompt, first, full, answer, variant)
                rows.append({"id": pair["id"], "kind": pair["kind"], "n_tokens": len(prompt), **row})
                done(rows[-1])
        finally:
            run.close()
    return {"rows": rows, "summary": _summary(rows)}


def _answer(run: Run, first: torch.Tensor, limit: int, model: LoadedModel) -> tuple[torch.Tensor, Ints]:
    """Logits `(tokens, vocabulary)` and tokens of a greedy answer."""
    logits, tokens = [first], [int(first.argmax())]
    while len(tokens) < limit and tokens[-1] not in model.end_tokens:
        logits.append(run.step(tokens[-1]))
        tokens.append(int(logits[-1].argmax()))
    return torch.stack(logits), np.asarray(tokens)


def _measured(
    model: LoadedModel,
    whole: RowRun,
    prompt: Ints,
    first: torch.Tensor,
    full: torch.Tensor,
    answer: Ints,
    variant: Variant,
) -> dict[str, Any]:
    rows = model.support.rows
    assert rows is not None
    whole.continue_from(prompt, len(prompt))

    def fresh() -> RetainedRun:
        return retained(rows, whole, variant.retention, variant.int8)

    run = fresh()
    forced = forced_logits(run, first, len(prompt), answer)
    _, own = _answer(fresh(), first, len(answer), model)
    decode = model.tokenizer.decode
    return {
        "policy": variant.retention.policy,
        "share": variant.retention.share,
        "int8": variant.int8,
        "kv_bytes": run.nbytes,
        "kv_bytes_share": run.nbytes / (whole.capacity * rows.token_bytes),
        "kl_added": kl_mean(full, forced),
        "top1_agreement": agreement(full, forced),
        "rouge_l": rouge_l(decode(own, skip_special_tokens=True), decode(answer, skip_special_tokens=True)),
    }


def _summary(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    summary = []
    names = ("policy", "share", "int8", "kind")
    for case in dict.fromkeys(tuple(row[n] for n in names) for row in rows):
        mine = [row for row in rows if tuple(row[n] for n in names) == case]
        figures = {n: mean(row[n] for row in mine) for n in ("kv_bytes_share", "kl_added", "top1_agreement", "rouge_l")}
        summary.append({**dict(zip(names, case, strict=True)), "pairs": len(mine), **figures})
    return summary
