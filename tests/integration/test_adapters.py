"""Adapters that are switched, and weights that change, between turns and while one is computed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from semshare_agents.model.loading import LoadedModel, prepare
from tests import tiny
from tests.conftest import OpenLLM

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")

ASK = [tiny.user(tiny.words(40, 3))]
EXACT: dict[str, Any] = {"max_new_tokens": 8, "reuse": "exact"}


def adapted(*names: str) -> LoadedModel:
    """A model with strong adapters, the first of them active."""
    lora = LoraConfig(r=4, target_modules=["q_proj", "k_proj", "v_proj"], task_type="CAUSAL_LM")
    model = get_peft_model(tiny.build("llama"), lora, adapter_name=names[0])
    for name in names[1:]:
        model.add_adapter(name, lora)
    for seed, name in enumerate(names):
        draw = torch.Generator().manual_seed(seed)
        for path, weight in model.named_parameters():
            if f"lora_B.{name}." in path:
                weight.data.normal_(std=0.5, generator=draw)
    return prepare(model.eval(), tiny.tokenizer(), "adapted")


def stock_answer(loaded: LoadedModel, messages: list[dict[str, str]]) -> list[int]:
    """The library's own greedy answer, of the model as it is now."""
    ids = loaded.tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )["input_ids"]
    out = loaded.model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        max_new_tokens=8,
        eos_token_id=sorted(loaded.end_tokens),
        pad_token_id=0,
    )
    answer: list[int] = out[0, ids.shape[1] :].tolist()
    return answer


async def test_kv_of_one_adapter_never_serves_another(open_llm: OpenLLM) -> None:
    loaded = adapted("red", "blue")
    llm = await open_llm(loaded)
    answers = {}
    for name in ("red", "blue", "red", "blue"):
        loaded.model.set_adapter(name)
        answer = await llm.generate(ASK, **EXACT)
        assert list(answer.tokens) == stock_answer(loaded, ASK)
        assert answer.report.reuse_class == ("exact" if name in answers else "cold")
        answers[name] = answer.tokens
    assert len(set(answers.values())) == 2
    with loaded.model.disable_adapter():
        plain = await llm.generate(ASK, **EXACT)
        assert plain.report.reuse_class == "cold"
        assert list(plain.tokens) == stock_answer(loaded, ASK)


@pytest.mark.parametrize("counted", [True, False])
async def test_weights_that_changed_between_turns_are_another_model(counted: bool, open_llm: OpenLLM) -> None:
    loaded = adapted("red")
    llm = await open_llm(loaded)
    await llm.generate(ASK, **EXACT)
    weight = next(w for path, w in loaded.model.named_parameters() if "lora_B.red" in path)
    with torch.no_grad():
        (weight if counted else weight.data).mul_(-1.5)
    changed = await llm.generate(ASK, **EXACT)
    assert changed.report.reuse_class == "cold"
    assert list(changed.tokens) == stock_answer(loaded, ASK)
    assert (await llm.generate(ASK, **EXACT)).report.reuse_class == "exact"


async def test_a_switch_while_a_prompt_is_computed_mixes_nothing(open_llm: OpenLLM) -> None:
    loaded = adapted("red", "blue")
    llm = await open_llm(loaded)
    await llm.generate(ASK, **EXACT)
    longer = [tiny.user(ASK[0]["content"] + tiny.words(10, 4))]

    def switch(*_: Any) -> None:
        hook.remove()
        loaded.model.set_adapter("blue")

    hook = loaded.model.base_model.model.model.layers[1].register_forward_pre_hook(switch)
    mixed = await llm.generate(longer, **EXACT)
    assert "changed while the prompt was computed" in mixed.report.reason
    assert mixed.report.reuse_class == "cold"
    assert list(mixed.tokens) == stock_answer(loaded, longer)
    again = await llm.generate(longer, **EXACT)
    assert again.report.reuse_class == "exact"
    assert list(again.tokens) == stock_answer(loaded, longer)
    loaded.model.set_adapter("red")
    assert list((await llm.generate(longer, **EXACT)).tokens) == stock_answer(loaded, longer)


async def test_kv_of_an_answer_that_saw_two_adapters_is_not_kept(open_llm: OpenLLM) -> None:
    loaded = adapted("red", "blue")
    llm = await open_llm(loaded)
    session = llm.session("s")
    pieces = session.stream("tell " + tiny.words(30, 5), max_new_tokens=8)
    first = await anext(pieces)
    loaded.model.set_adapter("blue")
    async for piece in pieces:
        last = piece
    assert first.text
    assert last.generation is not None
    assert last.generation.report.turn_id is not None
    for name in ("red", "blue"):
        loaded.model.set_adapter(name)
        answer = await llm.generate([tiny.user("tell " + tiny.words(30, 5))], **EXACT)
        assert answer.report.reuse_class == "cold"
