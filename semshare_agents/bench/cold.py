"""The yardstick: the stock transformers prefill and the greedy answer that follows it."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import torch

from semshare_agents.engine import Engine
from semshare_agents.model.loading import LoadedModel
from semshare_agents.model.run import Run
from semshare_agents.model.stock import StockRun
from semshare_agents.values import Ints


@dataclass(frozen=True)
class Cold:
    """A cold answer.

    Attributes:
        seconds: Median time of the stock prefill.
        logits: Distribution before each answer token, `(tokens, vocabulary)`.
        tokens: The greedy answer, end token included, shape `(tokens,)`.
        text: The same as text.
    """

    seconds: float
    logits: torch.Tensor
    tokens: Ints
    text: str


async def cold_answer(engine: Engine, model: LoadedModel, prompt: Ints, max_new_tokens: int, repeat: int = 1) -> Cold:
    """`answer_cold` on the engine's thread."""
    return await engine.call(lambda: answer_cold(model, prompt, max_new_tokens, repeat))


def answer_cold(model: LoadedModel, prompt: Ints, max_new_tokens: int, repeat: int = 1) -> Cold:
    """Prefill with the stock forward, attention and cache, then answer greedily. Runs on the calling thread."""
    seconds: list[float] = []
    run: Run | None = None
    first = torch.empty(0)
    for _ in range(repeat):
        if run is not None:
            run.close()
        run, first, took = _stock_prefill(model, prompt)
        seconds.append(took)
    assert run is not None
    logits, tokens = [first], [int(first.argmax())]
    while len(tokens) < max_new_tokens and tokens[-1] not in model.end_tokens:
        logits.append(run.step(tokens[-1]))
        tokens.append(int(logits[-1].argmax()))
    run.close()
    text = model.tokenizer.decode(tokens, skip_special_tokens=True)
    return Cold(float(np.median(seconds)), torch.stack(logits), np.asarray(tokens), text)


def _stock_prefill(model: LoadedModel, prompt: Ints) -> tuple[Run, torch.Tensor, float]:
    run = StockRun(model.model, model.support.rows)
    start = time.perf_counter()
    first = run.cold(prompt)
    first.argmax().item()
    return run, first, time.perf_counter() - start
