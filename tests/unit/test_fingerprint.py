"""Whatever shapes KV changes the fingerprint; nothing else does."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from semshare_agents.model.fingerprint import fingerprint
from tests import tiny


@pytest.fixture(scope="module")
def known() -> str:
    return fingerprint(tiny.build("llama"), tiny.tokenizer())


def test_equal_models_have_equal_fingerprints(known: str) -> None:
    assert fingerprint(tiny.build("llama"), tiny.tokenizer()) == known
    assert len(known) == 64
    assert int(known, 16) > 0


def test_where_a_model_came_from_does_not_matter(known: str) -> None:
    model = tiny.build("llama")
    model.config._name_or_path = "/elsewhere"
    model.config.transformers_version = "0.0"
    assert fingerprint(model, tiny.tokenizer()) == known


def test_every_weight_counts(known: str) -> None:
    model = tiny.build("llama")
    seen = {known}
    for name, weight in model.state_dict().items():
        flat = weight.view(-1)
        before = float(flat[-1])
        flat[-1] = before + 1e-3
        changed = fingerprint(model, tiny.tokenizer())
        assert changed not in seen, name
        seen.add(changed)
        flat[-1] = before
    assert fingerprint(model, tiny.tokenizer()) == known


def template(tokenizer: Any) -> None:
    tokenizer.chat_template += " "


def vocabulary(tokenizer: Any) -> None:
    tokenizer.add_tokens(["newword"])


@pytest.mark.parametrize("change", [template, vocabulary])
def test_the_tokenizer_counts(known: str, change: Any) -> None:
    changed = copy.deepcopy(tiny.tokenizer())
    change(changed)
    assert fingerprint(tiny.build("llama"), changed) != known


def test_dtype_rope_and_seed_count(known: str) -> None:
    others = [
        fingerprint(tiny.build("llama", torch.bfloat16), tiny.tokenizer()),
        fingerprint(tiny.build("llama", seed=8), tiny.tokenizer()),
        *(fingerprint(tiny.build(f"llama-{rope}"), tiny.tokenizer()) for rope in ("linear", "llama3", "yarn")),
    ]
    assert len({known, *others}) == 6


def test_quantisation_and_adapters_count(known: str) -> None:
    quantised, adapted = tiny.build("llama"), tiny.build("llama")
    quantised.quantization_method = "some"
    adapted.peft_config = {"poet": None}
    found = {fingerprint(quantised, tiny.tokenizer()), fingerprint(adapted, tiny.tokenizer())}
    assert len(found | {known}) == 3
