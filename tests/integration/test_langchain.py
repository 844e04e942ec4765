"""LangChain's face on tiny models: threads and loops, configs, streams, tools, structured answers and errors."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from pathlib import Path
from typing import Any, TypedDict

import pytest
from langchain_core import exceptions as langchain
from langchain_core.exceptions import OutputParserException
from langchain_core.messages import AIMessage, AIMessageChunk, ChatMessage, HumanMessage, RemoveMessage, ToolMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_semshare import ChatSemShare, SemShareCompletion
from langchain_semshare.messages import to_adapter
from pydantic import BaseModel, ValidationError

from semshare_agents import errors
from semshare_agents.llm import SemShareLLM
from tests import tiny
from tests.conftest import OpenLLM
from tests.tiny import user

pytestmark = pytest.mark.filterwarnings("ignore:.*is in beta")
"""Version 3 of LangChain's event streams."""
STORY = " ".join(tiny.words(30, seed) for seed in range(3))


class Switch(BaseModel):
    """Switch a light."""

    on: bool
    level: int | None = None


class SwitchDict(TypedDict):
    """Switch a light."""

    on: bool


@pytest.fixture
async def llm(open_llm: OpenLLM) -> SemShareLLM:
    return await open_llm(max_new_tokens=8)


async def tokens_of(llm: SemShareLLM, text: str = STORY, **options: Any) -> str:
    return (await llm.generate([user(text)], store=False, **options)).text


# --- where it is called from


async def test_the_adapter_serves_its_own_loop_other_threads_and_other_loops(llm: SemShareLLM) -> None:
    model = ChatSemShare(llm=llm)
    expected = await tokens_of(llm)
    assert (await model.ainvoke(STORY)).text == expected
    assert (await asyncio.to_thread(model.invoke, STORY)).text == expected
    assert (await asyncio.to_thread(lambda: asyncio.run(model.ainvoke(STORY)))).text == expected

    async def streamed() -> str:
        return "".join([part.text async for part in model.astream(STORY)])

    assert await streamed() == expected
    assert await asyncio.to_thread(lambda: asyncio.run(streamed())) == expected
    assert await asyncio.to_thread(lambda: "".join(part.text for part in model.stream(STORY))) == expected
    answers = await asyncio.gather(*(asyncio.to_thread(model.invoke, STORY) for _ in range(3)), model.ainvoke(STORY))
    assert {answer.text for answer in answers} == {expected}


async def test_calls_that_fill_the_loops_own_threads_are_answered(llm: SemShareLLM) -> None:
    model = ChatSemShare(llm=llm)
    expected = await tokens_of(llm)
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
    answers = await asyncio.wait_for(asyncio.gather(*(asyncio.to_thread(model.invoke, STORY) for _ in range(3))), 60)
    assert {answer.text for answer in answers} == {expected}


async def test_a_call_that_would_wait_for_itself_is_refused(llm: SemShareLLM) -> None:
    model = ChatSemShare(llm=llm)
    with pytest.raises(errors.ConfigurationError, match="use ainvoke"):
        model.invoke("x")
    with pytest.raises(errors.ConfigurationError, match="use ainvoke"):
        next(model.stream("x"))


@pytest.mark.parametrize("where", ["here", "loop", "thread"])
async def test_a_stream_that_is_closed_ends_its_computation(open_llm: OpenLLM, where: str) -> None:
    llm = await open_llm(max_new_tokens=1500)
    model = ChatSemShare(llm=llm)

    async def first() -> Any:
        async with aclosing(model.astream("x")) as parts:
            return await anext(parts)

    def first_blocking() -> Any:
        parts = model.stream("x")
        part = next(parts)
        parts.close()  # type: ignore[attr-defined]
        return part

    if where == "here":
        await first()
    elif where == "loop":
        await asyncio.to_thread(lambda: asyncio.run(first()))
    else:
        await asyncio.to_thread(first_blocking)
    async with asyncio.timeout(5):
        await llm.pipeline.engine.idle.drained()
    assert await llm.pipeline.memory.registry.sessions("default") == []


# --- what is said counts


async def test_zero_nothing_and_none_each_mean_what_they_say(llm: SemShareLLM) -> None:
    whole = await tokens_of(llm)
    model = ChatSemShare(llm=llm, stop=[whole[0]], max_tokens=5, temperature=2.0, seed=3, store=False)
    assert (await model.ainvoke(STORY, temperature=0)).text == ""
    assert (await model.ainvoke(STORY, temperature=0, stop=[])).text == whole[:5]
    assert (await model.ainvoke(STORY, temperature=0, stop=[], max_tokens=None, seed=None)).text == whole[:5]
    assert (await model.ainvoke(STORY, temperature=0, stop=["0"], max_tokens=7)).text == whole[:7]
    drawn = [(await model.ainvoke(STORY, stop=[], seed=seed)).text for seed in (0, 0, None)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert drawn[2] == (await ChatSemShare(llm=llm, max_tokens=5, temperature=2.0, seed=3).ainvoke(STORY)).text
    text = SemShareCompletion(llm=llm, max_tokens=5)
    as_it_is = await llm.generate([user(STORY)], raw=True, max_new_tokens=5, store=False)
    assert await text.ainvoke(STORY, raw=None) == as_it_is.text
    assert await text.ainvoke(STORY, raw=False) == whole[:5] != as_it_is.text


@pytest.mark.parametrize(
    ("option", "told"),
    [
        ({"max_tokens": 0}, "at least 1"),
        ({"max_tokens": -1}, "at least 1"),
        ({"max_tokens": 3, "max_new_tokens": 4}, "one option"),
        ({"stop": [""]}, "non-empty"),
        ({"top_p": 0}, "top_p"),
        ({"session": ""}, "session"),
        ({"tenant": ""}, "tenant"),
        ({"store": "false"}, "store"),
        ({"tool_choice": ""}, "tool_choice"),
        ({"fidelity": 0}, "fidelity"),
    ],
)
async def test_what_cannot_be_kept_is_refused(llm: SemShareLLM, option: dict[str, Any], told: str) -> None:
    for model in (ChatSemShare(llm=llm), SemShareCompletion(llm=llm)):
        with pytest.raises(langchain.ModelInvalidRequestError, match=told):
            await model.ainvoke("x", **option)
    where = {"configurable": {name: option[name] for name in ("session", "tenant", "fidelity") if name in option}}
    if where["configurable"]:
        with pytest.raises(langchain.ModelInvalidRequestError, match=told):
            await ChatSemShare(llm=llm).ainvoke("x", where)  # type: ignore[arg-type]


async def test_a_field_of_the_model_is_refused_like_an_option(llm: SemShareLLM) -> None:
    for wrong in ({"max_tokens": 0}, {"top_p": 0.0}, {"stop": [""]}, {"session": ""}, {"tenant": ""}):
        with pytest.raises(langchain.ModelInvalidRequestError):
            await ChatSemShare(llm=llm, **wrong).ainvoke("x")


async def test_a_tool_that_is_strict_is_refused_where_calls_cannot_be_held_to_it(llm: SemShareLLM) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"], "not": {"const": {}}}
    tool = {"type": "function", "function": {"name": "count", "description": "", "parameters": schema}}
    loose = ChatSemShare(llm=llm, max_tokens=4).bind_tools([tool])
    assert (await loose.ainvoke("x")).usage_metadata
    said_once = {"type": "function", "function": {**tool["function"], "strict": True}}  # type: ignore[dict-item]
    for bound in (
        ChatSemShare(llm=llm, max_tokens=4).bind_tools([tool], strict=True),
        ChatSemShare(llm=llm, max_tokens=4).bind_tools([said_once]),
    ):
        with pytest.raises(langchain.ModelInvalidRequestError, match="JSON schema"):
            await bound.ainvoke("x")


# --- what it tells and is told


async def test_tokens_count_as_read_from_the_cache_where_they_are_exact(llm: SemShareLLM) -> None:
    model = ChatSemShare(llm=llm)
    first = await model.ainvoke([HumanMessage(STORY)])
    assert first.usage_metadata is not None
    assert first.usage_metadata["input_token_details"] == {"cache_read": 0}
    second = await model.ainvoke([HumanMessage(STORY), first, HumanMessage("and")])
    assert second.usage_metadata is not None
    report = second.response_metadata["semshare"]
    assert report["class"] == "exact"
    assert second.usage_metadata["input_token_details"]["cache_read"] == report["tokens"]["exact"] > len(STORY)
    assert second.usage_metadata["total_tokens"] == sum(
        second.usage_metadata[k] for k in ("input_tokens", "output_tokens")
    )
    assert second.response_metadata["finish_reason"] == "length"
    assert second.response_metadata["model_name"] == model.model == "tiny-llama"
    moved = await model.ainvoke([("system", "be brief"), ("human", STORY)])
    assert moved.response_metadata["semshare"]["class"] == "moved"
    assert moved.usage_metadata is not None
    assert moved.usage_metadata["input_token_details"]["cache_read"] < 60


async def test_tenant_and_session_come_from_the_config(llm: SemShareLLM) -> None:
    model = ChatSemShare(llm=llm)

    async def reused(config: Any, **options: Any) -> str:
        answer = await model.ainvoke(STORY, config, **options)
        return str(answer.response_metadata["semshare"]["class"])

    acme = {"configurable": {"tenant": "acme", "session": "ana"}}
    assert await reused(acme) == "cold"
    assert await reused(acme) != "cold"
    assert await reused({"configurable": {"tenant": "bolt"}}) == "cold"
    assert await reused(acme, tenant="core") == "cold"
    assert await reused({"configurable": {"tenant": "acme", "reuse": "off"}}) == "cold"
    chain = ChatPromptTemplate.from_messages([("human", "{text}")]) | model | StrOutputParser()
    await chain.ainvoke({"text": STORY}, {"configurable": {"thread_id": 7, "tenant": "acme"}})
    [part async for part in model.astream(STORY, {"configurable": {"tenant": "acme", "session": "ben"}})]
    assert {s["name"] for s in await llm.pipeline.memory.registry.sessions("acme")} == {"ana", "7", "ben"}


async def test_every_way_in_reads_the_config(llm: SemShareLLM) -> None:
    chat, text = ChatSemShare(llm=llm), SemShareCompletion(llm=llm)

    def config(name: str) -> Any:
        return {"configurable": {"session": name}}

    def blocking() -> None:
        chat.invoke("x", config("invoke"))
        list(chat.stream("x", config("stream")))
        chat.batch(["x", "x"], [config("batch0"), config("batch1")])
        list(chat.stream_events("x", config("events"), version="v3"))
        text.invoke("x", config("text-invoke"))
        list(text.stream("x", config("text-stream")))
        text.batch(["x", "x"], [config("text-batch0"), config("text-batch1")])

    await asyncio.to_thread(blocking)
    await chat.abatch(["x"], [config("abatch")])
    [event async for event in chat.astream_events("x", config("aevents"), version="v2")]
    stream = await chat.astream_events("x", config("aevents3"), version="v3")
    await stream.output
    await text.abatch(["x"], [config("text-abatch")])
    [part async for part in text.astream("x", config("text-astream"))]
    assert {s["name"] for s in await llm.pipeline.memory.registry.sessions("default")} == {
        *("invoke", "stream", "batch0", "batch1", "abatch", "events", "aevents", "aevents3"),
        *("text-invoke", "text-stream", "text-batch0", "text-batch1", "text-abatch", "text-astream"),
    }


async def test_stop_strings_may_have_any_number_of_tokens(llm: SemShareLLM) -> None:
    whole = await tokens_of(llm, max_new_tokens=40)
    stop = whole[10:15]
    model = ChatSemShare(llm=llm, max_tokens=40, stop=["never"])
    cut = await model.ainvoke(STORY, stop=[stop])
    assert cut.text == whole[: whole.index(stop)]
    assert cut.response_metadata["finish_reason"] == "stop"
    assert (await ChatSemShare(llm=llm, max_tokens=40, stop=[stop]).ainvoke(STORY)).text == cut.text


async def test_parameters_of_the_model_and_of_a_call(llm: SemShareLLM) -> None:
    model = ChatSemShare(llm=llm, max_tokens=3, temperature=1.0, seed=1, store=False)
    first = await model.ainvoke(STORY)
    assert first.usage_metadata is not None
    assert first.usage_metadata["output_tokens"] == 3
    assert first.text == await tokens_of(llm, max_new_tokens=3, temperature=1.0, seed=1)
    assert (await model.ainvoke(STORY, temperature=0, max_tokens=5)).text == await tokens_of(llm, max_new_tokens=5)
    assert first.response_metadata["semshare"]["turn_id"] is None


async def test_completions_go_on_with_the_text_itself(llm: SemShareLLM) -> None:
    model = SemShareCompletion(llm=llm)
    expected = (await llm.generate([user(STORY)], raw=True, store=False)).text
    assert await model.ainvoke(STORY) == expected
    assert "".join([part async for part in model.astream(STORY)]) == expected
    result = await model.agenerate([STORY, "x"])
    assert result.generations[0][0].text == expected
    assert result.llm_output is not None
    assert result.llm_output["token_usage"]["prompt_tokens"] == len(STORY) + 1


def test_messages_of_all_kinds() -> None:
    call = {"name": "f", "args": {"a": 1}, "id": "i", "type": "tool_call"}
    broken = {"name": "g", "args": "{", "id": "j", "error": None, "type": "invalid_tool_call"}
    told = to_adapter(
        [
            AIMessage(
                [{"type": "text", "text": "so"}, {"type": "tool_use", "id": "i", "name": "f", "input": {}}],
                tool_calls=[call],
                invalid_tool_calls=[broken],
            ),
            ToolMessage([{"type": "text", "text": "ok"}], tool_call_id="i"),
            ChatMessage("hey", role="developer"),
            HumanMessage("you", name="ana"),
        ]
    )
    assert told == [
        {
            "role": "assistant",
            "content": "so",
            "tool_calls": [
                {"id": "i", "type": "function", "function": {"name": "f", "arguments": {"a": 1}}},
                {"id": "j", "type": "function", "function": {"name": "g", "arguments": "{"}},
            ],
        },
        {"role": "tool", "content": "ok", "tool_call_id": "i"},
        {"role": "developer", "content": "hey"},
        {"role": "user", "content": "you", "name": "ana"},
    ]


# --- tools and structured answers


async def test_tool_calls_whole_and_in_parts(llm: SemShareLLM) -> None:
    model = ChatSemShare(llm=llm, max_tokens=200).bind_tools([Switch], tool_choice="any")
    whole = await model.ainvoke("x")
    [call] = whole.tool_calls
    assert call["name"] == "Switch"
    Switch(**call["args"])
    full: Any = None
    async for part in model.astream("x"):
        assert isinstance(part, AIMessageChunk)
        full = part if full is None else full + part
    assert [(c["name"], c["args"]) for c in full.tool_calls] == [("Switch", call["args"])]
    assert full.response_metadata["finish_reason"] == "tool_calls"
    cut = await ChatSemShare(llm=llm, max_tokens=58).bind_tools([Switch], tool_choice="Switch").ainvoke("x")
    assert cut.tool_calls == []
    [broken] = cut.invalid_tool_calls
    assert broken["name"] == "Switch"
    with pytest.raises(json.JSONDecodeError):
        json.loads(broken["args"] or "")


@pytest.mark.parametrize("most", range(30, 70, 3))
async def test_half_a_call_is_none_when_it_is_streamed(llm: SemShareLLM, most: int) -> None:
    """LangChain completes JSON of streamed calls; where the limit cut the call off, that would run half of it."""
    model = ChatSemShare(llm=llm, max_tokens=most).bind_tools([Switch], tool_choice="Switch")
    full: Any = None
    async for part in model.astream("x"):
        full = part if full is None else full + part
    whole = await model.ainvoke("x")
    assert full.response_metadata["finish_reason"] == whole.response_metadata["finish_reason"]
    assert full.tool_calls == whole.tool_calls
    assert [c["name"] for c in full.invalid_tool_calls] == [c["name"] for c in whole.invalid_tool_calls]
    if whole.response_metadata["finish_reason"] == "length":
        assert full.tool_calls == []
    # What an agent keeps of it does not end the conversation.
    answered = ChatSemShare(llm=llm, max_tokens=4)
    for said in (full, whole):
        history = [HumanMessage("x"), said, HumanMessage("go on")]
        assert (await answered.ainvoke(history)).usage_metadata["output_tokens"] == 4


@pytest.mark.parametrize("method", ["function_calling", "json_schema", "json_mode"])
async def test_structured_answers(llm: SemShareLLM, method: Any) -> None:
    model = ChatSemShare(llm=llm, max_tokens=200)
    assert isinstance(await model.with_structured_output(Switch, method=method).ainvoke("x"), Switch)
    assert set(await model.with_structured_output(SwitchDict, method=method).ainvoke("x")) == {"on"}
    told = await model.with_structured_output(Switch, method=method, include_raw=True).ainvoke("x")
    assert isinstance(told["parsed"], Switch)
    assert isinstance(told["raw"], AIMessage)
    assert told["parsing_error"] is None
    short = ChatSemShare(llm=llm, max_tokens=4)
    cut = await short.with_structured_output(Switch, method=method, include_raw=True).ainvoke("x")
    assert cut["parsed"] is None
    assert cut["raw"].response_metadata["finish_reason"] == "length"
    if method != "function_calling":
        assert isinstance(cut["parsing_error"], OutputParserException)


async def test_response_formats_of_openai_are_understood(llm: SemShareLLM) -> None:
    model = ChatSemShare(llm=llm, max_tokens=200)
    schema = {"type": "json_schema", "json_schema": {"name": "s", "schema": Switch.model_json_schema()}}
    Switch(**json.loads((await model.ainvoke("x", response_format=schema)).text))
    assert (await model.ainvoke("x", response_format={"type": "text"})).text
    with pytest.raises(errors.PromptError, match="response_format"):
        await model.ainvoke("x", response_format={"type": "xml"})


async def test_thoughts_of_other_models_reach_the_adapter(llm: SemShareLLM) -> None:
    call = {"name": "f", "args": {}, "id": "i", "type": "tool_call"}
    for content, beside in (
        ([{"type": "reasoning", "reasoning": "hm"}], {}),
        ([{"type": "thinking", "thinking": "hm", "signature": "s"}], {}),
        ("", {"reasoning_content": "hm"}),
    ):
        [told] = to_adapter([AIMessage(content, tool_calls=[call], additional_kwargs=beside)])
        assert (told["content"], told["reasoning_content"]) == ("", "hm")


def test_a_structured_answer_needs_a_schema_and_a_known_method() -> None:
    model = ChatSemShare()
    with pytest.raises(errors.ConfigurationError, match="needs a schema"):
        model.with_structured_output(None, method="json_schema")  # type: ignore[arg-type]
    with pytest.raises(errors.ConfigurationError, match="function_calling"):
        model.with_structured_output(Switch, method="xml")  # type: ignore[arg-type]


# --- errors


@pytest.mark.parametrize(
    ("prompt", "options", "theirs", "ours"),
    [
        ("x" * 3000, {}, langchain.ContextOverflowError, errors.ContextLengthError),
        ("x", {"fly": True}, langchain.ModelInvalidRequestError, errors.ConfigurationError),
        ("x", {"tools": [{"type": "x"}]}, langchain.ModelInvalidRequestError, errors.PromptError),
        ("x", {"response_schema": {"type": "x"}}, langchain.ModelInvalidRequestError, errors.PromptError),
        ("x", {"model": "gpt-9"}, langchain.ModelNotFoundError, errors.ModelNotFoundError),
        ([RemoveMessage("x")], {}, langchain.ModelInvalidRequestError, errors.PromptError),
        ([HumanMessage([{"type": "image", "url": "x"}])], {}, langchain.ModelInvalidRequestError, errors.PromptError),
        ("x", {"timeout": 0.0}, langchain.ModelTimeoutError, TimeoutError),
    ],
)
async def test_errors_are_of_both_kinds(
    llm: SemShareLLM, prompt: Any, options: dict[str, Any], theirs: type[Exception], ours: type[Exception]
) -> None:
    model = ChatSemShare(llm=llm)
    for kind in (theirs, ours):
        with pytest.raises(kind):
            await model.ainvoke(prompt, **options)
        with pytest.raises(kind):
            await asyncio.to_thread(lambda: list(model.stream(prompt, **options)))
    assert (await model.ainvoke("x")).text


async def test_unknown_fields_and_closed_adapters_are_refused(open_llm: OpenLLM) -> None:
    with pytest.raises(ValidationError, match="temprature"):
        ChatSemShare(temprature=1.0)  # type: ignore[call-arg]
    with pytest.raises(errors.ConfigurationError, match="memory_byte"):
        ChatSemShare(settings={"memory_byte": 1}).invoke("x")
    llm = await open_llm()
    model = ChatSemShare(llm=llm)
    await llm.aclose()
    with pytest.raises(errors.ClosedError):
        await model.ainvoke("x")
    with pytest.raises(errors.ClosedError, match="not started"):
        ChatSemShare(llm=SemShareLLM.open())


# --- adapters of its own


@pytest.fixture
def own(tmp_path: Path) -> dict[str, Any]:
    """Arguments of a model that opens a tiny adapter by itself."""
    folder = tmp_path / "model"
    tiny.build("llama").save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    settings = {"home": str(tmp_path / "home"), "block_tokens": 16, "repair_idle": False, "min_gain": 1.0}
    return {"model": str(folder), "settings": settings, "max_tokens": 4}


def test_models_of_equal_settings_share_an_adapter_that_may_be_closed(own: dict[str, Any]) -> None:
    with ChatSemShare(**own) as first:
        text = first.invoke(STORY).text
        other = SemShareCompletion(**own)
        assert other.host is first.host
        assert ChatSemShare(**{**own, "settings": {**own["settings"], "block_tokens": 32}}).host is not first.host
    assert first.host is not other._host
    again = first.invoke(STORY)
    assert again.text == text
    assert again.usage_metadata is not None
    # What was remembered is there for the next adapter.
    assert again.usage_metadata["input_token_details"]["cache_read"] > 100
    first.close()
    first.close()


def test_a_model_that_is_not_there_can_be_asked_for_again(tmp_path: Path) -> None:
    model = ChatSemShare(model=str(tmp_path / "none"), settings={"home": str(tmp_path / "home")})
    for _ in range(2):
        with pytest.raises(langchain.ModelNotFoundError):
            model.invoke("x")
    model.close()


def test_what_is_unwritten_at_exit_is_written(own: dict[str, Any]) -> None:
    code = (
        "import json, sys; from langchain_semshare import ChatSemShare\n"
        "answer = ChatSemShare(**json.loads(sys.argv[1])).invoke(sys.argv[2])\n"
        "print(answer.usage_metadata['input_token_details']['cache_read'])"
    )
    command = [sys.executable, "-c", code, json.dumps(own), STORY]
    runs = [subprocess.run(command, capture_output=True, text=True, timeout=120, check=False) for _ in range(2)]
    assert [run.stderr[-300:] for run in runs if run.returncode] == []
    first, second = (int(run.stdout) for run in runs)
    assert first == 0 < 100 < second
