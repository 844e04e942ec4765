"""`semshare bench window`: a conversation through a sliding window, every turn reusing the one before."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np

from semshare_agents.bench.ablations import damaged
from semshare_agents.bench.cold import cold_answer
from semshare_agents.bench.pairs import PairsOptions, fresh_memory, measure_reuse, prompt_of
from semshare_agents.errors import ConfigurationError
from semshare_agents.llm import SemShareLLM
from semshare_agents.model.loading import LoadedModel
from semshare_agents.settings import Settings

QUESTION = "Answer in one sentence: what was just talked about?"


def read_lines(path: Path) -> tuple[list[dict[str, str]], list[tuple[str, str]]]:
    """A conversation as leading system messages and `(role, line)` pairs.

    Raises:
        ConfigurationError: the file is not a list of `{"role", "content"}` messages.
    """
    try:
        messages = json.loads(path.read_text(encoding="utf-8"))
        pairs = [(m["role"], m["content"]) for m in messages]
        if not all(isinstance(word, str) for pair in pairs for word in pair):
            raise TypeError("every role and content has to be a text")
    except (OSError, ValueError, TypeError, KeyError) as e:
        raise ConfigurationError(f"{path} is not a JSON list of role/content messages: {e}") from e
    system = [{"role": role, "content": text} for role, text in pairs if role == "system"]
    lines = [(role, line) for role, text in pairs if role != "system" for line in text.split("\n") if line.strip()]
    return system, lines


def windows(
    system: list[dict[str, str]], lines: Sequence[tuple[str, str]], turns: int, width: int, step: int
) -> list[list[dict[str, str]]]:
    """The prompts: `width` lines each, the oldest `step` dropped from one to the next, and a question at the end.

    Raises:
        ConfigurationError: the conversation is too short, or a number is not positive.
    """
    if min(turns, width, step) < 1:
        raise ConfigurationError("turns, lines and step must be positive")
    if width + (turns - 1) * step > len(lines):
        raise ConfigurationError(
            f"the conversation has {len(lines)} lines; {turns} turns of {width} lines, {step} apart, need "
            f"{width + (turns - 1) * step}"
        )
    prompts = []
    for turn in range(turns):
        messages: list[dict[str, str]] = [dict(m) for m in system]
        for role, line in [*lines[turn * step : turn * step + width], ("user", QUESTION)]:
            if messages and messages[-1]["role"] == role and role != "system":
                messages[-1]["content"] += f"\n{line}"
            else:
                messages.append({"role": role, "content": line})
        prompts.append(messages)
    return prompts


async def run_window(
    prompts: Sequence[list[dict[str, str]]],
    model: LoadedModel,
    settings: Settings,
    options: PairsOptions,
    done: Callable[[dict[str, Any]], None] = lambda _: None,
) -> dict[str, Any]:
    """Replay prompts in one memory; each is measured against its own cold run, then stored.

    With the setting `repair_idle` a turn's KV is made exact before the next one comes, as between the turns of a chat.

    Returns:
        `rows`, one a turn, and `summary` over the turns after the first, with the slope of KL over turns.
    """
    rows: list[dict[str, Any]] = []
    async with fresh_memory(model, settings, options.tier) as llm:
        for turn, messages in enumerate(prompts):
            rows.append({"turn": turn, **await _turn(llm, messages, options)})
            done(rows[-1])
    return {"rows": rows, "summary": _summary(rows[1:])}


async def _turn(llm: SemShareLLM, messages: list[dict[str, str]], options: PairsOptions) -> dict[str, Any]:
    pipeline = damaged(llm.pipeline, options.ablations)
    prompt = await prompt_of(pipeline.model, messages)
    cold = await cold_answer(pipeline.engine, pipeline.model, prompt, options.max_new_tokens, options.repeat)
    row = {"n_tokens": len(prompt), **await measure_reuse(pipeline, messages, cold, options)}
    await llm.generate(messages, reuse=options.reuse, max_new_tokens=options.max_new_tokens)
    await llm.settle()
    return row


def _summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    if not rows:
        return {}
    kls = [row["kl_mean"] for row in rows]
    half = len(kls) // 2
    return {
        "turns": len(rows),
        "speedup_median": median(row["speedup"] for row in rows),
        "ttft_reuse_s_median": median(row["ttft_reuse_s"] for row in rows),
        "kl_mean": mean(kls),
        "kl_first_half": mean(kls[:half] or kls),
        "kl_second_half": mean(kls[half:]),
        "kl_slope_per_turn": float(np.polyfit(np.arange(len(kls)), kls, 1)[0]) if len(kls) > 1 else 0.0,
        "top1_agreement": mean(row["top1_agreement"] for row in rows),
    }
