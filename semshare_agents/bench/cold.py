"""The yardstick: the stock transformers prefill and the greedy answer that follows it."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import torch
from transformers import DynamicCache

from semshare_agents.model.run import Run, StockRun
from semshare_agents.turn import Turns
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


def answer_cold(turns: Turns, prompt: Ints, max_new_tokens: int, repeat: int = 1) -> Cold:
    """Prefill with the stock forward, attention and cache, then answer greedily. Runs on the calling thread."""
    seconds: list[float] = []
    run: Run | None = None
    first = torch.empty(0)
    for _ in range(repeat):
        if run is not None:
            run.close()
        run, first, took = _stock_prefill(turns, prompt)
        seconds.append(took)
    assert run is not None
    logits, tokens = [first], [int(first.argmax())]
    while len(tokens) < max_new_tokens and tokens[-1] not in turns.model.end_tokens:
        logits.append(run.step(tokens[-1]))
        tokens.append(int(logits[-1].argmax()))
    run.close()
    text = turns.model.tokenizer.decode(tokens, skip_special_tokens=True)
    return Cold(float(np.median(seconds)), torch.stack(logits), np.asarray(tokens), text)


def _stock_prefill(turns: Turns, prompt: Ints) -> tuple[Run, torch.Tensor, float]:
    rows, model = turns.model.support.rows, turns.model.model
    if rows is None:
        stock = StockRun(model)
        start = time.perf_counter()
        return stock, stock.cold(prompt), time.perf_counter() - start
    ids = torch.as_tensor(prompt, device=rows.device)[None]
    run = _StockCacheRun(turns)
    with rows.stock(), torch.inference_mode():
        start = time.perf_counter()
        out = model(input_ids=ids, use_cache=True, logits_to_keep=1, **{rows.cache_name: run.cache})
        first: torch.Tensor = out.logits[0, -1]
        first.argmax().item()
        took = time.perf_counter() - start
    return run, first, took


class _StockCacheRun(StockRun):
    """Goes on from a stock prefill with the stock attention."""

    def __init__(self, turns: Turns):
        super().__init__(turns.model.model)
        assert turns.model.support.rows is not None
        self._rows = turns.model.support.rows
        self.cache = DynamicCache(config=turns.model.model.config)

    def step(self, token: int) -> torch.Tensor:
        """See `Run.step`."""
        self._cache = self.cache
        with self._rows.stock():
            return super().step(token)

    def close(self) -> None:
        """See `Run.close`."""
        self.cache = None
        super().close()
