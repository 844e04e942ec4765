"""Whole turns on models whose tags of calls and thoughts are tokens, and that say what a test wants them to say."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import jsonschema_rs
import pytest
import torch
from langchain_semshare import ChatSemShare
from pydantic import BaseModel
from transformers import LlamaConfig, LlamaForCausalLM

from semshare_agents.model.loading import LoadedModel, prepare
from tests import prompts
from tests.conftest import OpenLLM
from tests.prompts import CHATML, QWEN_LIKE, XML_LIKE
from tests.tiny import assistant, user

FAR: dict[str, Any] = {"type": "object", "properties": {"far": {"type": "boolean"}}, "required": ["far"]}


def tool(name: str, parameters: dict[str, Any]) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "description": "", "parameters": parameters}}


LOOK = [tool("look", {"type": "object", "properties": {}})]
LOOK_FAR = [tool("look", FAR)]
TOOLS = [tool("look", FAR), tool("list", FAR)]
THINKING = CHATML.replace("<|im_start|>assistant\n{% endif %}", "<|im_start|>assistant\n<think>\n{% endif %}")
JSON_CALL = ("<tool_call>", '\n{"name": "look", "arguments": {}}\n', "</tool_call>")
XML_HEAD, XML_TAIL = "\n<function=look>\n<parameter=far>\n", "\n</parameter>\n</function>\n"
XML_CALL = ("<tool_call>", XML_HEAD, "true", XML_TAIL, "</tool_call>")
# Each with a tool whose call it is. A library that forces text allows no token that goes beyond what is forced.
CALLS = [(CHATML, JSON_CALL, LOOK), (QWEN_LIKE, JSON_CALL, LOOK), (XML_LIKE, XML_CALL, LOOK_FAR)]


def model(template: str, *says: str, special: tuple[str, ...] = ()) -> LoadedModel:
    """A model that, after a prompt's last newline, says these texts one after the other; each is a token."""
    known = (*prompts.TAGS, *special)
    pieces = tuple(dict.fromkeys(text for text in says if text not in known))
    tokenizer = prompts.tokenizer(template, special=special, more=pieces)
    size = len(tokenizer) + 2
    shape = {"hidden_size": size + size % 2, "num_attention_heads": 1, "head_dim": 16, "intermediate_size": 8}
    torch.manual_seed(1)
    config = LlamaConfig(vocab_size=size, num_hidden_layers=1, eos_token_id=2, max_position_embeddings=4096, **shape)
    made = LlamaForCausalLM(config).eval()
    ids = [tokenizer.convert_tokens_to_ids(text) for text in ("Ċ", *says)] + [2]
    with torch.no_grad():
        for layer in made.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        made.model.embed_tokens.weight.copy_(torch.eye(size, config.hidden_size))
        made.lm_head.weight.zero_()
        for now, then in pairwise(ids):
            made.lm_head.weight[then, now] = 9.0
    return prepare(made, tokenizer, "tiny-tags")


@pytest.mark.parametrize("template", [CHATML, QWEN_LIKE, THINKING])
@pytest.mark.parametrize("choice", ["required", "list"])
async def test_a_call_that_must_be_made_is_made(open_llm: OpenLLM, template: str, choice: str) -> None:
    llm = await open_llm(model(template, "so", "it", "is"))
    done = await llm.generate([user("hi")], tools=TOOLS, tool_choice=choice, max_new_tokens=300)
    [call] = done.tool_calls
    assert call.whole
    assert call.name == "list" or choice == "required"
    jsonschema_rs.validate(FAR, json.loads(call.arguments))
    assert (done.text, done.finish_reason) == ("", "tool_calls")
    tokenizer = llm.pipeline.model.tokenizer
    for tag in ("<tool_call>", "</tool_call>"):
        assert done.tokens.count(tokenizer.convert_tokens_to_ids(tag)) == 1


@pytest.mark.parametrize("template", [CHATML, QWEN_LIKE, XML_LIKE])
async def test_structured_output_of_such_models(open_llm: OpenLLM, template: str) -> None:
    class Choice(BaseModel):
        """A choice."""

        yes: bool

    llm = await open_llm(model(template, "so"))
    for method in ("function_calling", "json_schema"):
        chat = ChatSemShare(llm=llm, max_tokens=300).with_structured_output(Choice, method=method)
        assert isinstance(await chat.ainvoke("hi"), Choice)


@pytest.mark.parametrize(("template", "call", "tools"), CALLS)
@pytest.mark.parametrize("before", [(), ("<think>", "hm", "</think>", "so ")])
async def test_the_model_thinks_and_calls_of_its_own_accord(
    open_llm: OpenLLM, template: str, call: tuple[str, ...], tools: Any, before: tuple[str, ...]
) -> None:
    llm = await open_llm(model(template, *before, *call))
    free = await llm.generate([user("hi")], max_new_tokens=40, store=False)
    assert free.text == "".join((*before, *call))
    done = await llm.generate([user("hi")], tools=tools, max_new_tokens=40, store=False)
    assert done.tokens[: len(before) + len(call)] == free.tokens[: len(before) + len(call)]
    assert (done.text, [c.name for c in done.tool_calls]) == ("".join(before), ["look"])
    assert json.loads(done.tool_calls[0].arguments) == ({"far": True} if template is XML_LIKE else {})


async def test_the_draft_of_a_call_is_left_free_and_is_no_call(open_llm: OpenLLM) -> None:
    draft = ("<think>", "or ", "<tool_call>", "no JSON at all", "</tool_call>", "</think>")
    llm = await open_llm(model(CHATML, *draft))
    done = await llm.generate([user("hi")], tools=TOOLS, max_new_tokens=40)
    assert (done.text, done.tool_calls, done.finish_reason) == ("".join(draft), (), "stop")


async def test_a_thought_that_the_prompt_opens_is_one(open_llm: OpenLLM) -> None:
    draft = ("I could ", "<tool_call>", "no JSON at all", "</think>", "So: ", *JSON_CALL)
    said = [*draft]
    said[1] = "[a call]"
    llm = await open_llm(model(THINKING, *said))
    done = await llm.generate([user("hi")], tools=LOOK, max_new_tokens=40)
    assert (done.text, [c.name for c in done.tool_calls]) == ("".join(said[:5]), ["look"])
    llm = await open_llm(model(THINKING, *draft[:3], "!"))
    done = await llm.generate([user("hi")], tools=TOOLS, max_new_tokens=40)
    assert (done.text, done.tool_calls) == ("I could <tool_call>no JSON at all!", ())


async def test_special_marks_of_thoughts_are_seen(open_llm: OpenLLM) -> None:
    thought = ("[THINK]", "<tool_call>", "no", "[/THINK]")
    llm = await open_llm(model(CHATML, *thought, special=("[THINK]", "[/THINK]")))
    done = await llm.generate([user("hi")], tools=TOOLS, max_new_tokens=40)
    assert (done.text, done.tool_calls) == ("".join(thought), ())


@pytest.mark.parametrize(("template", "call", "tools"), CALLS)
async def test_what_was_generated_is_reused_exactly(
    open_llm: OpenLLM, template: str, call: tuple[str, ...], tools: Any
) -> None:
    """Sessions send the answer as it was written: its tags are tokens in the next prompt as they were in this one."""
    llm = await open_llm(model(template, "<think>", "hm", "</think>", "so ", *call))
    first = await llm.generate([user("hi")], tools=tools, max_new_tokens=60)
    assert first.finish_reason == "tool_calls"
    await llm.flush()
    talk = [user("hi"), assistant(first.raw), user("and?")]
    again = await llm.generate(talk, tools=tools, store=False, max_new_tokens=1)
    # A template that takes thoughts off an answer has its own prompt again.
    thought = 0 if template is QWEN_LIKE else len(first.tokens) - 1
    assert again.report.tokens["exact"] >= first.usage.prompt_tokens + thought


async def test_a_setting_lets_control_tokens_act(open_llm: OpenLLM) -> None:
    counts = {}
    for setting in ("text", "tokens"):
        llm = await open_llm(model(CHATML, "so"), control_tokens=setting)
        counts[setting] = (await llm.generate([user("<|im_end|>")], store=False, max_new_tokens=1)).usage.prompt_tokens
    assert counts["text"] > counts["tokens"]
    # A raw prompt is its caller's own template.
    llm = await open_llm(model(CHATML, "so"))
    raw = await llm.generate([user("a<|im_end|>")], raw=True, store=False, max_new_tokens=1)
    assert raw.usage.prompt_tokens == 2


async def test_thoughts_come_apart_where_they_are_asked_for(open_llm: OpenLLM) -> None:
    """In pieces, whole, and for a thought that the prompt opened; special marks of thoughts are seen for it."""
    special = ("[THINK]", "hm", "[/THINK]", "so")
    for made in (
        model(CHATML, "<think>", "hm", "</think>", "so"),
        model(THINKING, "hm", "</think>", "so"),
        model(CHATML, *special, special=("[THINK]", "[/THINK]")),
    ):
        llm = await open_llm(made)
        pieces = [p async for p in llm.stream([user("hi")], split_thoughts=True, max_new_tokens=20)]
        done = pieces[-1].generation
        assert done is not None
        assert (done.thoughts, done.text) == ("hm", "so")
        assert ("".join(p.thoughts for p in pieces), "".join(p.text for p in pieces)) == ("hm", "so")
        told = await ChatSemShare(llm=llm, max_tokens=20).ainvoke("hi")
        assert (told.text, told.additional_kwargs["reasoning_content"]) == ("so", "hm")
        streamed = [part async for part in ChatSemShare(llm=llm, max_tokens=20).astream("hi")]
        assert "".join(part.additional_kwargs.get("reasoning_content", "") for part in streamed) == "hm"


async def test_an_answer_that_began_with_a_thought_goes_on_in_it(open_llm: OpenLLM) -> None:
    llm = await open_llm(model(CHATML, "<think>", "hm", "</think>", "so"))
    talk = [user("hi"), assistant("<think>hm")]
    done = await llm.generate(talk, split_thoughts=True, store=False, max_new_tokens=20)
    assert (done.thoughts, done.text) == ("", "so")
