"""Tools and JSON answers over HTTP, asked for by the official OpenAI client; the model is random, the shapes hold."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from enum import Enum
from typing import Any, Literal

import httpx2 as httpx
import jsonschema_rs
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.utils.json import parse_partial_json
from pydantic import BaseModel

from semshare_agents.llm import SemShareLLM
from semshare_agents.tools.calls import broken_off
from tests import tiny
from tests.serving import MODEL, client

OpenLLM = Callable[..., Awaitable[SemShareLLM]]

PLACE = {
    "type": "object",
    "properties": {"city": {"enum": ["Oslo", "Rome"]}, "days": {"type": "integer", "minimum": 1, "maximum": 9}},
    "required": ["city", "days"],
    "additionalProperties": False,
}
WEATHER: Any = {
    "type": "function",
    "function": {"name": "weather", "description": "Weather of a city.", "parameters": PLACE, "strict": True},
}
REST: Any = {"type": "function", "function": {"name": "rest"}}
ASK: Any = {"model": MODEL, "messages": [tiny.user("How is it in Rome?")], "max_tokens": 400}
NAMED: Any = {"type": "function", "function": {"name": "weather"}}


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Flag(BaseModel):
    """An answer that cannot be long, whatever the model."""

    colour: Colour
    stripes: Literal[2, 3]
    old: bool


async def test_a_named_tool_is_called_whole_and_streamed_alike(url: str, llm: SemShareLLM) -> None:
    async with client(url) as ai:
        whole = await ai.chat.completions.create(**ASK, tools=[WEATHER, REST], tool_choice=NAMED)
        stream = await ai.chat.completions.create(**ASK, tools=[WEATHER, REST], tool_choice=NAMED, stream=True)
        events = [event async for event in stream]
    (choice,) = whole.choices
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", None)
    (call,) = choice.message.tool_calls or []
    assert call.type == "function"
    assert call.function.name == "weather"
    jsonschema_rs.validate(PLACE, json.loads(call.function.arguments))
    deltas = [event.choices[0].delta for event in events]
    parts = [part for delta in deltas for part in delta.tool_calls or []]
    assert deltas[0].role == "assistant"
    assert [part.index for part in parts] == [0] * len(parts)
    assert (parts[0].type, parts[0].function and parts[0].function.name) == ("function", "weather")
    assert parts[0].id
    assert not any(part.id for part in parts[1:])
    said = "".join(part.function.arguments or "" for part in parts if part.function)
    assert said == call.function.arguments
    assert len(parts) > 5
    assert events[-1].choices[0].finish_reason == "tool_calls"


@pytest.mark.parametrize("parallel", [None, True])
async def test_required_calls_keep_to_the_tools(url: str, parallel: bool | None) -> None:
    extra: Any = {} if parallel is None else {"parallel_tool_calls": parallel}
    async with client(url) as ai:
        done = await ai.chat.completions.create(**ASK, tools=[WEATHER, REST], tool_choice="required", **extra)
    calls = done.choices[0].message.tool_calls or []
    assert len(calls) >= 1 if parallel else len(calls) == 1
    # The last of very many may be cut off.
    for call in calls[:-1] if done.choices[0].finish_reason == "length" else calls:
        assert call.type == "function"
        schema = PLACE if call.function.name == "weather" else {"type": "object"}
        jsonschema_rs.validate(schema, json.loads(call.function.arguments))
    assert len({call.id for call in calls}) == len(calls)


async def test_none_and_auto_leave_the_model_free(url: str) -> None:
    async with client(url) as ai:
        plain = await ai.chat.completions.create(**{**ASK, "max_tokens": 6})
        none = await ai.chat.completions.create(**{**ASK, "max_tokens": 6}, tools=[WEATHER], tool_choice="none")
        auto = await ai.chat.completions.create(**{**ASK, "max_tokens": 6}, tools=[WEATHER])
    assert none.choices[0].message == plain.choices[0].message
    assert auto.usage is not None
    assert plain.usage is not None
    assert auto.usage.prompt_tokens > plain.usage.prompt_tokens
    assert auto.choices[0].message.content


async def test_a_call_and_its_result_go_on(url: str) -> None:
    async with client(url) as ai:
        first = await ai.chat.completions.create(**ASK, tools=[WEATHER], tool_choice=NAMED)
        message = first.choices[0].message
        (call,) = message.tool_calls or []
        said: Any = [
            *ASK["messages"],
            message.model_dump(),  # as clients echo it, with all that is null
            {"role": "tool", "tool_call_id": call.id, "content": "Rain."},
        ]
        second = await ai.chat.completions.create(model=MODEL, messages=said, tools=[WEATHER], max_tokens=6)
    assert second.usage is not None
    assert second.usage.prompt_tokens_details is not None
    assert first.usage is not None
    assert second.usage.prompt_tokens_details.cached_tokens >= first.usage.prompt_tokens
    assert second.choices[0].message.content


@pytest.mark.parametrize("strict", [None, True])
async def test_answers_keep_to_a_schema(url: str, strict: bool | None) -> None:
    form: Any = {"type": "json_schema", "json_schema": {"name": "place", "schema": PLACE, "strict": strict}}
    async with client(url) as ai:
        whole = await ai.chat.completions.create(**ASK, response_format=form)
        stream = await ai.chat.completions.create(**ASK, response_format=form, stream=True)
        streamed = "".join([event.choices[0].delta.content or "" async for event in stream])
        text = await ai.completions.create(
            model=MODEL, prompt="x", max_tokens=200, extra_body={"response_format": form}
        )
    assert whole.choices[0].message.content == streamed
    assert whole.choices[0].finish_reason == "stop"
    jsonschema_rs.validate(PLACE, json.loads(streamed))
    jsonschema_rs.validate(PLACE, json.loads(text.choices[0].text))


async def test_json_object_and_text(url: str) -> None:
    async with client(url) as ai:
        cut = await ai.chat.completions.create(**{**ASK, "max_tokens": 9}, response_format={"type": "json_object"})
        text = await ai.chat.completions.create(**{**ASK, "max_tokens": 9}, response_format={"type": "text"})
        plain = await ai.chat.completions.create(**{**ASK, "max_tokens": 9})
    assert (cut.choices[0].message.content or "").startswith("{")
    assert text.choices[0].message == plain.choices[0].message


async def test_parse_gives_a_model_sync_and_async(url: str) -> None:
    def sync() -> Flag | None:
        with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as ai:
            return ai.chat.completions.parse(**ASK, response_format=Flag).choices[0].message.parsed

    async with client(url) as ai:
        parsed = (await ai.chat.completions.parse(**ASK, response_format=Flag)).choices[0].message.parsed
    assert isinstance(parsed, Flag)
    assert await asyncio.to_thread(sync) == parsed


async def test_the_clients_own_streams(url: str) -> None:
    tool: Any = openai.pydantic_function_tool(Flag, name="hoist")
    async with client(url) as ai:
        async with ai.chat.completions.stream(**ASK, response_format=Flag) as answers:
            kinds = {event.type async for event in answers}
            parsed = (await answers.get_final_completion()).choices[0].message.parsed
        async with ai.chat.completions.stream(**ASK, tools=[tool], tool_choice="required") as calls:
            events = [event async for event in calls]
            final = (await calls.get_final_completion()).choices[0].message
    assert {"content.delta", "content.done", "chunk"} <= kinds
    assert isinstance(parsed, Flag)
    assert "tool_calls.function.arguments.delta" in {event.type for event in events}
    (call,) = final.tool_calls or []
    assert isinstance(call.function.parsed_arguments, Flag)


async def test_sync_stream_of_calls(url: str) -> None:
    def ask() -> str:
        with (
            openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as ai,
            ai.chat.completions.create(**ASK, tools=[WEATHER], tool_choice=NAMED, stream=True) as events,
        ):
            deltas = [part for e in events for part in e.choices[0].delta.tool_calls or []]
        return "".join(part.function.arguments or "" for part in deltas if part.function)

    jsonschema_rs.validate(PLACE, json.loads(await asyncio.to_thread(ask)))


def tool(**function: Any) -> dict[str, Any]:
    return {"tools": [{"type": "function", "function": {"name": "f", **function}}]}


def schema(**schema: Any) -> dict[str, Any]:
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": schema}}}


UNSUPPORTED = {"type": "object", "properties": {"x": {"not": {"type": "string"}}}}
BAD: list[tuple[dict[str, Any], str]] = [
    ({"tools": "f"}, "tools"),
    ({"tools": [{"type": "custom", "custom": {"name": "f"}}]}, "tools"),
    (tool(name=""), "name"),
    (tool(name="a b"), "name"),
    (tool(name="x" * 65), "name"),
    (tool(parameters={"type": "array"}), "object"),
    (tool(parameters=UNSUPPORTED, strict=True), "schema"),
    ({"tools": [REST] * 129}, "128"),
    ({"tool_choice": "required"}, "no tools"),
    ({"tool_choice": NAMED}, "no tools"),
    ({"tool_choice": "sometimes", "tools": [REST]}, "tool_choice"),
    ({"tool_choice": NAMED, "tools": [REST]}, "tool_choice"),
    ({"functions": [{"name": "f"}]}, "functions"),
    ({"response_format": "json"}, "response_format"),
    ({"response_format": {"type": "yaml"}}, "response_format"),
    ({"response_format": {"type": "json_schema"}}, "json_schema"),
    (schema(type="objec"), "objec"),
    (schema(**UNSUPPORTED), "schema"),
    ({"messages": [{"role": "user", "content": None}]}, "content"),
    ({"messages": [{"role": "tool", "content": "x"}]}, "tool_call_id"),
    ({"messages": [{"role": "user", "content": "x", "tool_calls": [{"id": "1", "type": "function", "function": {
        "name": "f", "arguments": "{}"}}]}]}, "tool_calls"),
    ({"messages": [{"role": "assistant", "tool_calls": [{"id": "1", "type": "function", "function": {}}]}]}, "name"),
]  # fmt: skip


@pytest.mark.parametrize("stream", [False, True])
async def test_what_cannot_be_is_told_in_openai_shape(url: str, stream: bool) -> None:
    async with httpx.AsyncClient(base_url=url) as http:
        for change, told in BAD:
            answer = await http.post("/v1/chat/completions", json={**ASK, "stream": stream, **change})
            assert answer.status_code == 400, (change, answer.text)
            error = answer.json()["error"]
            assert set(error) == {"message", "type", "param", "code"}
            assert error["type"] == "invalid_request_error"
            assert told in f"{error['message']} {error['param']} {error['code']}", (change, error)
        assert (await http.get("/health")).status_code == 200


@pytest.mark.parametrize("most", [1, 2, 5, 11, 12, 13, *range(24, 70, 4)])
async def test_half_a_call_cannot_be_read(url: str, most: int) -> None:
    """A limit inside a call: what clients get of it parses as nothing, streamed and whole, lenient readers included."""
    body = {**ASK, "tools": [WEATHER], "tool_choice": NAMED, "max_tokens": most}
    async with client(url) as ai:
        whole = (await ai.chat.completions.create(**body)).choices[0]
        streamed: dict[int, str] = {}
        text, reason = "", ""
        async for event in await ai.chat.completions.create(**body, stream=True):
            choice = event.choices[0]
            text, reason = text + (choice.delta.content or ""), choice.finish_reason or reason
            for part in choice.delta.tool_calls or []:
                streamed[part.index] = streamed.get(part.index, "") + (part.function.arguments or "")
    calls = [call.function.arguments for call in whole.message.tool_calls or []]
    assert (list(streamed.values()), reason) == (calls, whole.finish_reason)
    assert (text, whole.message.content or "") == ("", "")
    if reason == "length":
        for arguments in calls:
            with pytest.raises(json.JSONDecodeError):
                json.loads(arguments)
            assert parse_partial_json(arguments) is None


ODD: list[Any] = [
    {"type": "web_search"},
    {"type": "custom", "custom": {"name": "f"}},
    {"type": "function", "function": {"name": "a b"}},
    {"type": "function", "function": {"name": "weather"}},
    {"type": "function", "function": {"name": "odd", "parameters": {"type": "array"}}},
    {"type": "function", "function": {"name": "odd", "parameters": {"type": "object", "properties": 3}}},
    {"type": "function", "function": {"name": "odd", "parameters": {"type": "object", "properties": {"x": "text"}}}},
    {"type": "function", "function": {"name": "odd", "parameters": {"$ref": "#/nowhere"}}},
]


@pytest.mark.parametrize("odd", ODD, ids=str)
@pytest.mark.parametrize("choice", ["auto", "required", NAMED], ids=str)
async def test_one_odd_tool_blocks_no_other(url: str, odd: Any, choice: Any) -> None:
    body = {**ASK, "tools": [WEATHER, odd], "tool_choice": choice, "max_tokens": 6 if choice == "auto" else 300}
    async with httpx.AsyncClient(base_url=url, timeout=60) as http:
        answer = await http.post("/v1/chat/completions", json=body)
    assert answer.status_code == 200, answer.text
    if choice == NAMED:
        (call,) = answer.json()["choices"][0]["message"]["tool_calls"]
        jsonschema_rs.validate(PLACE, json.loads(call["function"]["arguments"]))


@pytest.mark.parametrize(
    "form",
    [
        {"type": "function", "name": "weather", "parameters": PLACE},
        {"name": "weather", "description": None, "input_schema": PLACE},
        {"type": "custom", "name": "weather", "input_schema": PLACE},
        {"type": "function", "function": {"name": "weather", "parameters": PLACE, "x": 1}, "cache_control": {}},
    ],
    ids=str,
)
@pytest.mark.parametrize("choice", ["any", {"type": "any"}, {"type": "tool", "name": "weather"}], ids=str)
async def test_tools_and_choices_in_the_forms_of_peers(url: str, form: Any, choice: Any) -> None:
    async with httpx.AsyncClient(base_url=url, timeout=60) as http:
        answer = await http.post("/v1/chat/completions", json={**ASK, "tools": [form], "tool_choice": choice})
    (call,) = answer.json()["choices"][0]["message"]["tool_calls"]
    jsonschema_rs.validate(PLACE, json.loads(call["function"]["arguments"]))


async def test_a_call_cut_by_a_stop_string_is_no_call(url: str) -> None:
    async with client(url) as ai:
        done = await ai.chat.completions.create(**ASK, tools=[WEATHER], tool_choice=NAMED, stop=["city"])
    assert done.choices[0].finish_reason == "stop"
    for call in done.choices[0].message.tool_calls or []:
        with pytest.raises(json.JSONDecodeError):
            json.loads(call.function.arguments)


@given(
    value=st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=4) | st.sampled_from(['"', "\\", "]}"]),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
        max_leaves=6,
    ),
    size=st.integers(0, 60),
)
def test_what_is_broken_off_stays_broken(value: Any, size: int) -> None:
    begun = json.dumps({"a": value}, ensure_ascii=False)[:size]
    assert parse_partial_json(begun + broken_off(begun)) is None


async def test_thoughts_are_taken_from_clients(url: str) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "rest", "arguments": "{}"}}
    said = {"role": "assistant", "content": None, "tool_calls": [call]}
    talk = [tiny.user("a"), said, {"role": "tool", "tool_call_id": "c1", "content": "b"}]
    counts = []
    async with client(url) as ai:
        for more in ({}, {"reasoning_content": "hmm"}, {"reasoning": "hmm"}):
            messages: Any = [talk[0], {**said, **more}, talk[2]]
            done = await ai.chat.completions.create(model=MODEL, messages=messages, max_tokens=1)
            counts.append(done.usage.prompt_tokens if done.usage else 0)
    assert counts[0] < counts[1] == counts[2]
