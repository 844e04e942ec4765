"""What is found out about a model, and what runs cold with the stock model's own answer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from semshare_agents.model import support
from semshare_agents.model.loading import LoadedModel, prepare
from semshare_agents.model.support import examine
from tests import tiny
from tests.conftest import OpenLLM

REASONS = {
    "bloom-alibi": "ALiBi",
    "mpt-alibi": "ALiBi",
    "mamba": "without plain attention",
    "t5": "encoder-decoder",
}


@torch.inference_mode()
def stock_answer(model: LoadedModel, messages: list[dict[str, str]], tokens: int) -> list[int]:
    """The library's own greedy generation."""
    ids = model.tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )["input_ids"]
    options = {"do_sample": False, "max_new_tokens": tokens, "eos_token_id": sorted(model.end_tokens)}
    out = model.model.generate(ids, attention_mask=torch.ones_like(ids), pad_token_id=0, **options)[0].tolist()
    return out[1:] if model.model.config.is_encoder_decoder else out[ids.shape[1] :]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("family", list(tiny.REUSABLE))
def test_reusable_families_are_found_reusable(family: str, dtype: torch.dtype) -> None:
    found = tiny.loaded(family, dtype).support
    assert found.rows is not None
    assert found.mover is not None
    assert found.reason is None
    assert found.window_tokens == (tiny.WINDOW_TOKENS if family in tiny.LIMITED else None)
    assert len(found.rows.layers) == tiny.CONFIGS[family]().num_hidden_layers
    assert (found.rows.layout.kv_heads, found.rows.layout.head_dim) == (2, 16)


@pytest.mark.parametrize("family", list(tiny.UNSUPPORTED))
def test_others_are_ruled_out_with_a_reason(family: str) -> None:
    found = tiny.loaded(family).support
    assert found.rows is None
    assert found.mover is None
    assert REASONS[family] in str(found.reason)


def test_the_context_is_read_whatever_a_family_calls_it() -> None:
    assert tiny.loaded("mpt-alibi").context_tokens == 512
    assert tiny.loaded("llama").context_tokens == tiny.CONTEXT_TOKENS


def test_learned_positions_allow_exact_reuse_only() -> None:
    found = tiny.loaded("gpt2").support
    assert found.rows is not None
    assert found.mover is None
    assert "rotary" in str(found.reason)


def test_a_model_whose_keys_do_not_rotate_as_its_tables_say_is_not_moved() -> None:
    model = tiny.build("llama")
    rotary = model.model.rotary_emb
    honest = rotary.forward

    def lying(x: torch.Tensor, position_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        # Positions past 40 saturate: tables read position by position still agree, keys do not move rigidly.
        return honest(x, position_ids.clamp(max=40))

    rotary.forward = lying
    found = examine(model)
    assert found.rows is not None
    assert found.mover is None
    assert "moved keys of layer" in str(found.reason)


def test_keys_that_move_exactly_near_by_alone_are_not_moved() -> None:
    model = tiny.build("llama")
    rotary = model.model.rotary_emb
    honest = rotary.forward
    rotary.forward = lambda x, position_ids: honest(x, position_ids.clamp(max=tiny.CONTEXT_TOKENS // 2))
    found = examine(model)
    assert found.rows is not None
    assert found.mover is None
    assert "moved keys of layer" in str(found.reason)


async def test_keys_without_positions_move_anywhere(open_llm: OpenLLM) -> None:
    loaded = prepare(tiny.without_positions(), tiny.tokenizer(), "tiny-nope")
    assert loaded.support.mover is not None
    assert loaded.support.reason is None
    llm = await open_llm(loaded, head_tokens=8)
    text = tiny.words(60, 7)
    await llm.generate([tiny.user(text)], max_new_tokens=1)
    moved = await llm.generate([tiny.system("something else first"), tiny.user(text)], max_new_tokens=1)
    assert moved.report.reuse_class == "moved"


def _changed_from(model: Any, tokens: int) -> Any:
    """Queries of the first layer grow from a length on, counted by the cache, as some models' temperatures do."""
    layer = model.model.layers[0].self_attn
    honest = layer.forward

    def forward(hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        first = kwargs["cache"].get_seq_length() if kwargs.get("cache") is not None else 0
        where = torch.arange(first, first + hidden_states.shape[1])
        factor = 1 + 2 * (where >= tokens).float()
        return honest(hidden_states * factor[None, :, None], *args, **kwargs)

    layer.forward = forward
    return model


def test_a_length_that_the_configuration_names_is_crossed_at_load() -> None:
    model = tiny.build("llama")
    model.config.some_floor = 100
    assert examine(model).limit is None
    limit = examine(_changed_from(model, 100)).limit
    assert limit is not None
    assert limit.tokens == 100
    assert "some_floor of 100" in limit.reason


def test_what_is_too_long_to_be_crossed_at_load_is_not_reused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(support, "MADE_UP_BYTES", 100 * 768)
    model = tiny.build("llama")
    model.config.some_floor = 400
    limit = examine(model).limit
    assert limit is not None
    assert limit.tokens == 400
    assert "too long to be tried" in limit.reason


@pytest.mark.parametrize("family", list(tiny.UNSUPPORTED))
async def test_unsupported_models_answer_as_the_stock_model_does(family: str, open_llm: OpenLLM) -> None:
    model = tiny.loaded(family)
    llm = await open_llm(family)
    messages = [tiny.user(tiny.words(20, 3))]
    expected = stock_answer(model, messages, 10)
    for _ in range(2):
        answer = await llm.generate(messages, max_new_tokens=10, reuse="semantic")
        assert list(answer.tokens) == expected
        assert answer.report.reuse_class == "cold"
        assert REASONS[family] in answer.report.reason
        assert answer.report.tokens["computed"] == answer.usage.prompt_tokens


@pytest.mark.parametrize("family", [*tiny.REUSABLE, "gpt2"])
async def test_greedy_answers_equal_stock_generation_cold_and_reused(family: str, open_llm: OpenLLM) -> None:
    model = tiny.loaded(family)
    llm = await open_llm(family)
    first = [tiny.system("be brief"), tiny.user(tiny.words(25, 4))]
    cold = await llm.generate(first, max_new_tokens=12)
    assert cold.report.reuse_class == "cold"
    assert list(cold.tokens) == stock_answer(model, first, 12)
    follow = [*first, tiny.assistant(cold.text), tiny.user(tiny.words(5, 5))]
    warm = await llm.generate(follow, max_new_tokens=12)
    assert warm.report.reuse_class == "exact"
    assert warm.report.exact_tokens == warm.usage.prompt_tokens
    assert list(warm.tokens) == stock_answer(model, follow, 12)
    again = await llm.generate(first, max_new_tokens=12)
    assert again.report.reuse_class == "exact"
    assert again.tokens == cold.tokens


@pytest.mark.parametrize("family", tiny.LIMITED)
async def test_prompts_past_the_limit_run_cold_and_right(family: str, open_llm: OpenLLM) -> None:
    model = tiny.loaded(family)
    llm = await open_llm(family)
    messages = [tiny.user(tiny.words(tiny.WINDOW_TOKENS // 5 + 20, 6))]
    expected = stock_answer(model, messages, 8)
    for _ in range(2):
        answer = await llm.generate(messages, max_new_tokens=8)
        assert tiny.LIMITED[family] in answer.report.reason
        assert answer.report.reuse_class == "cold"
        assert list(answer.tokens) == expected


@pytest.mark.parametrize("family", tiny.LIMITED)
@pytest.mark.parametrize("beyond", [0, 1])
async def test_the_answer_counts_where_the_limit_is_reached(family: str, beyond: int, open_llm: OpenLLM) -> None:
    model = tiny.loaded(family)
    llm = await open_llm(family)
    messages = [tiny.user("x" * 330)]
    prompt = len(
        model.tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)["input_ids"]
    )
    room = tiny.WINDOW_TOKENS - prompt + beyond
    expected = stock_answer(model, messages, room)
    classes = []
    for _ in range(2):
        answer = await llm.generate(messages, max_new_tokens=room)
        assert list(answer.tokens) == expected
        classes.append(answer.report.reuse_class)
    assert classes == (["cold", "cold"] if beyond else ["cold", "exact"])


async def test_learned_positions_never_move(open_llm: OpenLLM) -> None:
    llm = await open_llm("gpt2")
    text = tiny.words(40, 7)
    await llm.generate([tiny.user(text)])
    moved = await llm.generate([tiny.system("something else first"), tiny.user(text)])
    assert moved.report.reuse_class == "cold"
    assert np.sum(list(moved.report.tokens.values())) == moved.usage.prompt_tokens
