"""Reordered weights: the same answers, the same fingerprint, nothing kept twice, and never stale."""

from __future__ import annotations

import copy
import gc
from typing import Any
from weakref import ref

import pytest
import torch

from semshare_agents.model.fingerprint import fingerprint
from semshare_agents.model.loading import prepare
from semshare_agents.model.reordered import ReorderedLinear, is_reordered, reorder, restore
from semshare_agents.model.runs import Runs
from tests import tiny

TOKENS = torch.arange(40)[None] * 7 % tiny.VOCABULARY


@torch.inference_mode()
def logits(model: Any, rows: int = 40) -> torch.Tensor:
    made: torch.Tensor = model(input_ids=TOKENS[:, :rows]).logits
    return made


@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma2", "phi3", "gpt2", "granite"])
def test_logits_and_fingerprint_are_those_of_plain_weights(family: str) -> None:
    model = tiny.build(family)
    plain, before = logits(model), fingerprint(model, tiny.tokenizer())
    names = list(model.state_dict())
    linear = any(type(module) is torch.nn.Linear for module in model.modules())
    assert reorder(model) is linear
    torch.testing.assert_close(logits(model), plain, rtol=1e-4, atol=1e-4)
    assert fingerprint(model, tiny.tokenizer()) == before
    assert list(model.state_dict()) == names
    restore(model)
    assert not is_reordered(model)
    assert torch.equal(logits(model), plain)


def test_a_row_is_computed_alike_beside_any_others() -> None:
    layer = torch.nn.Linear(64, 96)
    layer.__class__ = ReorderedLinear
    layer.take(shared=False)  # type: ignore[operator]
    with torch.inference_mode():
        rows = torch.randn(40, 64)
        together = layer(rows)
        for count in (1, 2, 3, 8, 17):
            torch.testing.assert_close(layer(rows[:count]), together[:count], rtol=1e-6, atol=1e-6)


def test_no_plain_weight_is_kept_but_a_shared_one() -> None:
    model = tiny.build("llama")
    own = ref(model.model.layers[0].mlp.up_proj.weight)
    model.lm_head.weight = model.model.embed_tokens.weight
    assert reorder(model)
    gc.collect()
    assert own() is None
    assert model.lm_head.weight is model.model.embed_tokens.weight


@pytest.mark.parametrize("counted", [True, False])
def test_a_shared_weight_that_is_written_is_reordered_again(counted: bool) -> None:
    model = tiny.build("llama")
    model.lm_head.weight = model.model.embed_tokens.weight
    loaded = prepare(model, tiny.tokenizer(), "tied", reorder_weights=True)
    before = loaded.fingerprint
    with torch.no_grad():
        if counted:
            model.model.embed_tokens.weight.mul_(-1.0)
        else:
            model.model.embed_tokens.weight.data.mul_(-1.0)
    assert loaded.fingerprint != before
    found = logits(model)
    restore(model)
    torch.testing.assert_close(found, logits(model), rtol=1e-4, atol=1e-4)


def test_writing_plain_numbers_into_a_reordered_weight_is_an_error() -> None:
    model = tiny.build("llama")
    assert reorder(model)
    with pytest.raises(RuntimeError):
        model.model.layers[0].mlp.up_proj.weight.data += torch.ones(96, 64)


def test_scaling_a_reordered_weight_changes_the_fingerprint() -> None:
    loaded = prepare(tiny.build("llama"), tiny.tokenizer(), "tiny", reorder_weights=True)
    before = loaded.fingerprint
    with torch.no_grad():
        loaded.model.model.layers[0].mlp.up_proj.weight.mul_(2.0)
    assert loaded.fingerprint != before


def test_an_input_with_a_graph_meets_the_plain_weight() -> None:
    plain = torch.nn.Linear(64, 96)
    inputs = torch.randn(3, 64, requires_grad=True)
    wanted = plain(inputs)
    plain.__class__ = ReorderedLinear
    plain.take(shared=False)  # type: ignore[operator]
    torch.testing.assert_close(plain(inputs), wanted)


@pytest.mark.parametrize("tied", [False, True])
def test_a_copy_is_plain(tied: bool) -> None:
    model = tiny.build("llama")
    if tied:
        model.lm_head.weight = model.model.embed_tokens.weight
    before = logits(model)
    assert reorder(model)
    copied = copy.deepcopy(model)
    assert not is_reordered(copied)
    assert is_reordered(model)
    assert torch.equal(logits(copied), before)
    assert (copied.lm_head.weight is copied.model.embed_tokens.weight) is tied
    assert logits(copied.to(torch.bfloat16)).dtype is torch.bfloat16


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_other_types_stay_plain(dtype: torch.dtype) -> None:
    assert not reorder(tiny.build("llama").to(dtype))


def test_a_model_that_takes_weights_out_of_its_layers_stays_plain() -> None:
    model = tiny.build("llama")
    plain, head = logits(model), model.lm_head

    class Reaching(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = head

        def forward(self, hidden: torch.Tensor) -> torch.Tensor:
            return hidden @ self.inner.weight.T.view(64, -1)

    model.lm_head = Reaching()
    assert not reorder(model)
    assert not is_reordered(model)
    torch.testing.assert_close(logits(model), plain)


def test_turns_run_by_rows_on_reordered_weights() -> None:
    plain, made = tiny.loaded("llama"), prepare(tiny.build("llama"), tiny.tokenizer(), "x", reorder_weights=True)
    assert is_reordered(made.model)
    assert made.fingerprint == plain.fingerprint
    prompt = TOKENS[0].numpy()
    a, b = Runs(plain).by_rows(50), Runs(made).by_rows(50)
    torch.testing.assert_close(a.cold(prompt), b.cold(prompt), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(a.step(5), b.step(5), rtol=1e-4, atol=1e-4)
