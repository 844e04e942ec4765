"""Token counts in LangChain's face: those of a real call, without weights, without the network."""

from __future__ import annotations

import socket
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage, trim_messages
from langchain_core.tools import tool
from langchain_semshare import ChatSemShare, SemShareCompletion
from pydantic import BaseModel
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from semshare_agents import errors
from semshare_agents.llm import SemShareLLM
from semshare_agents.model.loading import LoadedModel, prepare
from tests import tiny
from tests.conftest import OpenLLM

ALTERNATING = (
    "{% if messages[0].role == 'system' %}{{ messages[0].content }}{% set messages = messages[1:] %}{% endif %}"
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate user/assistant') }}{% endif %}[{{ m.role }}]{{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}[answer]{% endif %}"
)


@tool
def weather(place: str, days: int = 1) -> str:
    """Tell the weather at a place."""
    return f"Sun at {place} for {days} days."


class Note(BaseModel):
    """Write a note."""

    text: str


CALL = {"name": "weather", "args": {"place": "Ulm"}, "id": "c1"}
TALKS: dict[str, list[BaseMessage]] = {
    "one": [HumanMessage("Hello, naïve 世界 \U0001f30a!")],
    "system": [SystemMessage("be brief"), HumanMessage("hi")],
    "parts": [HumanMessage([{"type": "text", "text": "one "}, {"type": "text", "text": "two"}])],
    "long": [m for i in range(9) for m in (HumanMessage(f"Question {i}?"), AIMessage(f"Answer {i}."))]
    + [HumanMessage("and")],
    "tools": [
        HumanMessage("Weather in Ulm?"),
        AIMessage("", tool_calls=[CALL]),  # type: ignore[list-item]
        ToolMessage("Sun.", tool_call_id="c1", name="weather"),
        HumanMessage("thanks"),
    ],
}


def no_network(*_: object, **__: object) -> Any:
    raise AssertionError("the network was asked")


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("getaddrinfo", "create_connection"):
        monkeypatch.setattr(socket, name, no_network)


def retold(template: str) -> LoadedModel:
    """The tiny model with another chat template."""
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=tiny.tokenizer().backend_tokenizer, bos_token="<s>", eos_token="<|im_end|>"
    )
    tokenizer.chat_template = template
    return prepare(tiny.build("llama"), tokenizer, "tiny-retold")


@pytest.fixture
async def llm(open_llm: OpenLLM) -> SemShareLLM:
    return await open_llm(max_new_tokens=1)


@pytest.mark.parametrize("talk", TALKS)
@pytest.mark.parametrize("tools", [[], [weather, Note]], ids=["alone", "with tools"])
async def test_a_count_is_that_of_the_call(llm: SemShareLLM, talk: str, tools: list[Any]) -> None:
    model = ChatSemShare(llm=llm)
    bound = model.bind_tools(tools) if tools else model
    answer = await bound.ainvoke(TALKS[talk])
    assert answer.usage_metadata is not None
    assert model.get_num_tokens_from_messages(TALKS[talk], tools=tools or None) == answer.usage_metadata["input_tokens"]


async def test_texts_are_counted_without_what_a_chat_puts_around_them(llm: SemShareLLM) -> None:
    model, text = ChatSemShare(llm=llm), "tide: 潮"
    assert model.get_token_ids(text) == tiny.tokenizer().encode(text, add_special_tokens=False)
    assert model.get_num_tokens(text) == len(text.encode())
    assert model.get_num_tokens("") == 0
    custom = ChatSemShare(llm=llm, custom_get_token_ids=lambda text: [1] * 7)
    assert custom.get_num_tokens(text) == 7
    assert custom.get_num_tokens_from_messages(TALKS["system"]) == 14


async def test_a_completions_count_is_that_of_the_call(llm: SemShareLLM) -> None:
    model = SemShareCompletion(llm=llm)
    for prompt in ("a", "The tide is 潮 at noon", "x " * 300):
        result = await model.agenerate([prompt])
        assert result.llm_output is not None
        assert model.get_num_tokens(prompt) == result.llm_output["token_usage"]["prompt_tokens"]
        assert len(model.get_token_ids(prompt)) == model.get_num_tokens(prompt)
    assert model.get_num_tokens("") == 0


@pytest.mark.parametrize("template", [tiny.TEMPLATE, ALTERNATING], ids=["free", "alternating"])
@pytest.mark.parametrize("system", [True, False])
async def test_trimming_keeps_the_newest_messages_that_fit(open_llm: OpenLLM, template: str, system: bool) -> None:
    model = ChatSemShare(llm=await open_llm(retold(template), max_new_tokens=1))
    talk: list[BaseMessage] = [SystemMessage("be brief")] if system else []
    for i in range(20):
        talk += [HumanMessage(f"Question number {i}: what is a tide?"), AIMessage(f"Answer {i}: water that moves.")]
    talk.append(HumanMessage("And why?"))
    kept = trim_messages(talk, token_counter=model, max_tokens=500, include_system=system, start_on="human")
    assert kept[-1] == talk[-1]
    assert kept == [*talk[:system], *talk[-(len(kept) - system) :]]
    count = (await model.ainvoke(kept)).usage_metadata["input_tokens"]  # type: ignore[index]
    longer = (await model.ainvoke([*talk[:system], *talk[-(len(kept) - system) - 2 :]])).usage_metadata
    assert longer is not None
    # What a list has once is counted for the system's message and for the rest.
    frame = model.get_num_tokens_from_messages([HumanMessage("")])
    assert count <= 500 < longer["input_tokens"] + frame * (1 + system)
    first = trim_messages(talk, token_counter=model, max_tokens=300, strategy="first")
    assert 0 < len(first) < len(talk)
    partial = trim_messages([HumanMessage("a\nb\n" * 300)], token_counter=model, max_tokens=100, allow_partial=True)
    assert 0 < len(str(partial[0].content)) <= 100


async def test_what_is_no_conversation_counts_message_by_message(open_llm: OpenLLM) -> None:
    model = ChatSemShare(llm=await open_llm(retold(ALTERNATING), max_new_tokens=1))
    talk: list[BaseMessage] = [HumanMessage("aaaa"), AIMessage("bbb"), HumanMessage("cc")]
    whole = model.get_num_tokens_from_messages(talk)
    assert whole == len("[user]aaaa\n[assistant]bbb\n[user]cc\n[answer]")
    # An answer that nobody asked for has an empty question before it.
    alone = len("[user]\n[assistant]bbb\n[user]aaaa\n[answer]")
    assert model.get_num_tokens_from_messages(talk[::-1][1:]) == alone
    assert model.get_num_tokens_from_messages([]) == 0


async def test_a_model_that_is_not_open_counts_without_weights_or_network(
    default_home: Path, default_model: LoadedModel, offline: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", no_network)
    monkeypatch.setattr(torch.nn.Module, "load_state_dict", no_network)
    model = ChatSemShare(settings={"home": str(default_home)})
    assert model.profile is not None
    assert model.profile["max_input_tokens"] == default_model.context_tokens == 8192
    talk = TALKS["system"]
    said = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"}]
    expected = default_model.tokenizer.apply_chat_template(said, add_generation_prompt=True, return_dict=True)
    assert model.get_num_tokens_from_messages(talk) == len(expected["input_ids"])
    text = SemShareCompletion(settings={"home": str(default_home)})
    assert text.get_token_ids("What is a tide?") == default_model.tokenizer.encode("What is a tide?")
    monkeypatch.undo()
    async with SemShareLLM.open(loaded=default_model, home=tmp_path, max_new_tokens=1) as llm:
        for tools in (None, [weather, Note]):
            bound = ChatSemShare(llm=llm).bind_tools(tools or [])
            answer = await bound.ainvoke(TALKS["tools"])
            assert answer.usage_metadata is not None
            assert model.get_num_tokens_from_messages(TALKS["tools"], tools) == answer.usage_metadata["input_tokens"]


@pytest.mark.parametrize("name", ["some/model", "gpt2", "./nowhere", "nowhere.gguf"])
def test_a_model_that_is_not_here_is_told_of_at_once(offline: None, tmp_path: Path, name: str) -> None:
    began = time.perf_counter()
    model = ChatSemShare(model=name, settings={"home": str(tmp_path)})
    assert model.profile is not None
    assert "max_input_tokens" not in model.profile
    for count in (lambda: model.get_num_tokens("x"), lambda: model.get_num_tokens_from_messages([HumanMessage("x")])):
        with pytest.raises(errors.ModelNotFoundError, match="not on this machine"):
            count()
    assert time.perf_counter() - began < 5


def test_a_default_model_that_was_not_fetched_is_told_of(offline: None, tmp_path: Path) -> None:
    with pytest.raises(errors.ModelNotFoundError, match="semshare models pull"):
        ChatSemShare(settings={"home": str(tmp_path)}).get_num_tokens("x")


def test_a_folder_of_a_model_is_read_and_an_empty_tokenizer_refused(offline: None, tmp_path: Path) -> None:
    model = tiny.build("mistral")
    model.config.save_pretrained(tmp_path / "model")
    tiny.tokenizer().save_pretrained(tmp_path / "model")
    chat = ChatSemShare(model=str(tmp_path / "model"), settings={"home": str(tmp_path)})
    assert chat.profile is not None
    assert chat.profile["max_input_tokens"] == tiny.CONTEXT_TOKENS
    assert chat.get_num_tokens("four") == 4
    empty = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()))
    empty.save_pretrained(tmp_path / "empty")
    model.config.save_pretrained(tmp_path / "empty")
    with pytest.raises(errors.ModelNotFoundError, match="no tokenizer"):
        ChatSemShare(model=str(tmp_path / "empty"), settings={"home": str(tmp_path)}).get_num_tokens("x")
