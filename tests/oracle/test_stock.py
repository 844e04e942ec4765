"""Turns of many kinds of models against the library's own `generate`, logits of every step."""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from semshare_agents.errors import UnsupportedModelError
from semshare_agents.model.loading import prepare
from semshare_agents.model.stock import StockRun
from tests import tiny

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import architectures
import tiny_models

LIMITS: dict[str, int | None] = {
    "mistral": 32,
    "starcoder2": 32,
    "phi3+longrope": 128,
    "qwen2+window": 32,
    "moshi": 32,
    "mixtral": 32,
    "dots1": None,
    "llama+dynamic": None,
    "roberta": None,
}
"""Types whose KV is reused, with the limit up to which it is."""
COLD = ("bamba", "minimax+linearfirst", "mamba", "llama4_text", "bloom", "deepseek_v3", "openai-gpt", "rwkv")
REFUSED = {
    "bert+encoder": "is_decoder",
    "recurrent_gemma": "side by side",
    "reformer": "differently each time",
    "gemma4_assistant": "own generation fails",
}


@pytest.mark.parametrize("name", LIMITS)
async def test_reused_and_cold_turns_have_the_librarys_logits(name: str) -> None:
    model = tiny_models.build(name)
    loaded = prepare(model, tiny_models.tokenizer(), name)
    assert loaded.support.rows is not None
    assert loaded.support.window_tokens == LIMITS[name]
    found = await architectures.judged(loaded, copy.deepcopy(model))
    assert found["wrong"] == {}
    assert found["classes"]["exact"] >= 2


@pytest.mark.parametrize("name", COLD)
async def test_models_that_only_run_cold_have_the_librarys_logits(name: str) -> None:
    model = tiny_models.build(name)
    loaded = prepare(model, tiny_models.tokenizer(), name)
    assert loaded.support.rows is None
    assert loaded.support.reason
    found = await architectures.judged(loaded, copy.deepcopy(model))
    assert found["wrong"] == {}
    assert set(found["classes"]) == {"cold"}


@pytest.mark.parametrize("name", REFUSED)
def test_models_that_cannot_answer_turns_are_refused_when_they_are_loaded(name: str) -> None:
    with pytest.raises(UnsupportedModelError, match=REFUSED[name]):
        prepare(tiny_models.build(name), tiny_models.tokenizer(), name)


def test_tokens_that_pad_elsewhere_are_seen() -> None:
    model = tiny.build("bloom-alibi")
    prompt = np.asarray([5, 0, 0, 9, 0, 7])
    with torch.inference_mode():
        stock = model(torch.as_tensor(prompt)[None]).logits[0, -1]
    assert torch.allclose(StockRun(model).cold(prompt), stock, atol=1e-5)


def test_a_stock_model_that_fails_later_raises_a_typed_error() -> None:
    model = tiny.build("bloom-alibi")
    run = StockRun(model)
    run.cold(np.arange(5, 15))

    def failing(*_: Any, **__: Any) -> Any:
        raise RuntimeError("the size of tensor a must match")

    model.forward = failing
    with pytest.raises(UnsupportedModelError, match="11 tokens"):
        run.step(3)
