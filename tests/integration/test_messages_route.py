"""`/v1/messages`, asked by the official Anthropic client."""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Callable
from typing import Any, Literal

import anthropic
import httpx2 as httpx
import jsonschema_rs
import pytest
from pydantic import BaseModel
from semshare_server import Keyring
from semshare_server.keys import digest
from semshare_server.messages.blocks import chat_of, marks

from semshare_agents.errors import PromptError, RegistryUnavailableError
from semshare_agents.llm import SemShareLLM
from semshare_agents.testing import FakeLLM, tool_call
from tests import tiny
from tests.serving import MODEL, serving

OpenLLM = Callable[..., Awaitable[SemShareLLM]]
KEYS = Keyring({digest("sk-a"): "acme", digest("sk-b"): "bolt"})
PLACE = {"type": "object", "properties": {"city": {"enum": ["Oslo", "Rome"]}}, "required": ["city"]}
WEATHER: Any = {"name": "weather", "description": "Weather of a city.", "input_schema": PLACE}
ASK: Any = {"model": MODEL, "messages": [tiny.user("How is it in Rome?")], "max_tokens": 300}


class Flag(BaseModel):
    """An answer that cannot be long, whatever the model."""

    stripes: Literal[2, 3]
    old: bool


def claude(url: str, key: str = "none") -> anthropic.AsyncAnthropic:
    """The official client of a server."""
    return anthropic.AsyncAnthropic(base_url=url, api_key=key, max_retries=0, timeout=60)


async def test_a_message_is_the_chat_s_answer(url: str, llm: SemShareLLM) -> None:
    asked: Any = [tiny.user(tiny.words(30, seed=1))]
    system: Any = [{"type": "text", "text": "be brief"}]
    async with claude(url) as ai:
        got = await ai.messages.create(model=MODEL, messages=asked, system="be brief", max_tokens=6)
        again = await ai.messages.create(model=MODEL, messages=asked, system=system, max_tokens=6)
        counted = await ai.messages.count_tokens(model=MODEL, messages=asked, system=system)
    cold = await llm.generate([tiny.system("be brief"), *asked], reuse="off", max_new_tokens=6, store=False)
    assert got.content[0].type == again.content[0].type == "text"
    assert got.content[0].text == again.content[0].text == cold.text
    assert (got.stop_reason, got.stop_sequence, got.role, got.type) == ("max_tokens", None, "assistant", "message")
    assert (got.usage.input_tokens, got.usage.output_tokens) == (cold.usage.prompt_tokens, 6)
    assert counted.input_tokens == cold.usage.prompt_tokens
    usage = again.usage
    assert usage.cache_read_input_tokens == again.model_extra["semshare"]["tokens"]["exact"]  # type: ignore[index]
    assert usage.cache_read_input_tokens > 100
    assert usage.cache_creation_input_tokens == 0
    assert usage.input_tokens + usage.cache_read_input_tokens == cold.usage.prompt_tokens


async def test_events_come_in_the_order_that_clients_expect(url: str) -> None:
    async with claude(url) as ai:
        whole = await ai.messages.create(**{**ASK, "max_tokens": 6})
        events: list[Any] = [e async for e in await ai.messages.create(**{**ASK, "max_tokens": 6}, stream=True)]
        async with ai.messages.stream(**{**ASK, "max_tokens": 6}) as stream:
            said = "".join([text async for text in stream.text_stream])
            final = await stream.get_final_message()
    async with httpx.AsyncClient(base_url=url, timeout=60) as http:
        raw = (await http.post("/v1/messages", json={**ASK, "max_tokens": 6, "stream": True})).text
    kinds = list(dict.fromkeys(event.type for event in events))
    assert kinds == [
        "message_start",
        "content_block_start",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    # The client swallows pings.
    assert 'event: ping\ndata: {"type": "ping"}' in raw
    assert raw.index("message_start") < raw.index("event: ping") < raw.index("content_block_start")
    assert said == final.content[0].text == whole.content[0].text  # type: ignore[union-attr]
    assert final.stop_reason == "max_tokens"
    assert final.usage.input_tokens + (final.usage.cache_read_input_tokens or 0) == whole.usage.input_tokens
    assert final.usage.output_tokens == 6


@pytest.mark.parametrize("stream", [False, True])
async def test_a_tool_is_used_and_its_result_goes_on(url: str, stream: bool) -> None:
    forced: Any = {**ASK, "tools": [WEATHER], "tool_choice": {"type": "tool", "name": "weather"}}
    async with claude(url) as ai:
        if stream:
            async with ai.messages.stream(**forced) as events:
                first = await events.get_final_message()
        else:
            first = await ai.messages.create(**forced)
        (used,) = first.content
        assert used.type == "tool_use"
        assert (first.stop_reason, used.name) == ("tool_use", "weather")
        jsonschema_rs.validate(PLACE, used.input)
        result = {"type": "tool_result", "tool_use_id": used.id, "content": [{"type": "text", "text": "Rain."}]}
        said: Any = [
            *ASK["messages"],
            {"role": "assistant", "content": [block.model_dump() for block in first.content]},
            {"role": "user", "content": [result, {"type": "text", "text": "And?"}]},
        ]
        second = await ai.messages.create(**{**ASK, "messages": said, "tools": [WEATHER], "max_tokens": 6})
        said[-1]["content"][0]["tool_use_id"] = "toolu_9"
        with pytest.raises(anthropic.BadRequestError, match="toolu_9"):
            await ai.messages.create(**{**ASK, "messages": said, "tools": [WEATHER]})
    assert second.content[0].type == "text"
    assert (second.usage.cache_read_input_tokens or 0) > 100


async def test_a_cut_call_is_never_sent(url: str) -> None:
    text = {"type": "object", "properties": {"text": {"type": "string"}}}
    forced: Any = {
        "tools": [{"name": "say", "input_schema": text}],
        "tool_choice": {"type": "any", "disable_parallel_tool_use": True},
    }
    async with claude(url) as ai:
        whole = await ai.messages.create(**{**ASK, "max_tokens": 60}, **forced)
        async with ai.messages.stream(**{**ASK, "max_tokens": 60}, **forced) as events:
            streamed = await events.get_final_message()
    for got in (whole, streamed):
        assert (got.stop_reason, got.content) == ("max_tokens", [])


async def test_an_answer_keeps_to_its_schema(url: str) -> None:
    async with claude(url) as ai:
        schema = Flag.model_json_schema()
        told: Any = {"format": {"type": "json_schema", "schema": schema}}
        got = await ai.messages.create(**ASK, output_config=told)
    assert got.content[0].type == "text"
    Flag.model_validate_json(got.content[0].text)


async def test_stop_sequences_are_named(url: str) -> None:
    async with claude(url) as ai:
        whole = (await ai.messages.create(**{**ASK, "max_tokens": 20})).content[0].text  # type: ignore[union-attr]
        got = await ai.messages.create(**{**ASK, "max_tokens": 20}, stop_sequences=["?", whole[5:7]])
    assert (got.stop_reason, got.stop_sequence) == ("stop_sequence", whole[5:7])
    assert (got.content[0].text if got.content else "") == whole[: whole.index(whole[5:7])]  # type: ignore[union-attr]


async def test_marks_pin_for_their_time(url: str, llm: SemShareLLM) -> None:
    mark, long = {"type": "ephemeral"}, {"type": "ephemeral", "ttl": "1h"}
    system: Any = [{"type": "text", "text": tiny.words(40, 1), "cache_control": long}]
    asked: Any = [{"role": "user", "content": [{"type": "text", "text": "Hi", "cache_control": mark}]}]
    async with claude(url) as ai:
        plain = await ai.messages.create(model=MODEL, messages=[tiny.user("no mark")], max_tokens=4)  # type: ignore[list-item]
        assert await llm.pins() == []
        only_system = await ai.messages.create(
            model=MODEL, messages=[{"role": "user", "content": tiny.words(20, 2)}], system=system, max_tokens=4
        )
        both = await ai.messages.create(model=MODEL, messages=asked, system=system, max_tokens=4)
        short = await ai.messages.create(model=MODEL, messages=asked, max_tokens=4)
    assert plain.usage.cache_creation_input_tokens == 0
    head, rest = only_system.usage.cache_creation_input_tokens or 0, only_system.usage.input_tokens
    assert 190 < head < 240
    assert head + rest > 300
    assert (both.usage.cache_read_input_tokens or 0) > 150
    assert both.usage.input_tokens == 0
    assert (both.usage.cache_creation_input_tokens or 0) < 100
    assert short.usage.input_tokens + (short.usage.cache_read_input_tokens or 0) < 40
    now = time.time()
    lasts = [pin.ends_at - now for pin in await llm.pins() if pin.ends_at is not None]
    assert [round(seconds / 300) for seconds in lasts] == [12, 12, 1]


async def test_what_does_not_fit_is_not_pinned_and_not_counted(open_llm: OpenLLM) -> None:
    llm = await open_llm(tenant_bytes=100_000)
    asked: Any = [{"role": "user", "content": tiny.words(100, 1)}]
    async with serving(llm) as url, claude(url) as ai:
        got = await ai.messages.create(model=MODEL, messages=asked, max_tokens=4, cache_control={"type": "ephemeral"})
    assert got.usage.cache_creation_input_tokens == 0
    assert await llm.pins() == []


async def test_keys_come_as_x_api_key_and_errors_in_the_api_s_form(open_llm: OpenLLM) -> None:
    llm = await open_llm()
    async with serving(llm, KEYS, strict=True) as url:
        async with claude(url, "sk-a") as ai:
            await ai.messages.create(**{**ASK, "max_tokens": 4})
            with pytest.raises(anthropic.NotFoundError, match="no such model"):
                await ai.messages.create(**{**ASK, "model": "claude-9"})
        async with claude(url, "wrong") as ai:
            with pytest.raises(anthropic.AuthenticationError):
                await ai.messages.create(**ASK)
        async with anthropic.AsyncAnthropic(base_url=url, auth_token="sk-b", max_retries=0) as ai:
            await ai.messages.create(**{**ASK, "max_tokens": 4})
        async with httpx.AsyncClient(base_url=url, headers={"x-api-key": "sk-a"}, timeout=60) as http:
            got = await http.post("/v1/messages", json={**ASK, "messages": [tiny.user("x" * 5000)]})
            assert (await http.get("/v1/models")).status_code == 200
            assert (await http.get("/v1/messages")).json()["type"] == "error"
    assert got.status_code == 400
    assert got.json()["type"] == "error"
    assert got.json()["error"]["type"] == "invalid_request_error"
    assert got.json()["error"]["message"].startswith("prompt is too long: ")
    assert {row.tenant for row in await llm.reader.stored.browse("acme")} == {"acme"}
    assert len(await llm.reader.stored.browse("bolt")) == 1


async def test_statuses_have_the_types_that_clients_act_on() -> None:
    down = FakeLLM([RegistryUnavailableError("down")], model=MODEL)
    async with down as llm, serving(llm) as url, claude(url) as ai:
        with pytest.raises(anthropic.APIStatusError) as failed:
            await ai.messages.create(**ASK)
    assert failed.value.status_code == 503
    assert failed.value.body["error"]["type"] == "overloaded_error"  # type: ignore[index]


async def test_what_fails_after_the_first_events_is_told() -> None:
    class Failing(FakeLLM):
        async def _answered(self, messages: Any, options: Any) -> Any:
            async for piece in super()._answered(messages, options):
                if piece.generation is not None:
                    raise PromptError("it broke")
                yield piece

    async with Failing("Yes it is.", model=MODEL) as llm, serving(llm) as url, claude(url) as ai:
        with pytest.raises(anthropic.APIError, match="it broke"):
            [event async for event in await ai.messages.create(**ASK, stream=True)]


async def test_text_and_tools_are_blocks_of_one_stream() -> None:
    script: Any = [["Let me see. ", tool_call("weather", city="Rome"), tool_call("weather", city="Oslo")]]
    odd: Any = {"type": "web_search_20250305", "name": "web_search"}
    async with (
        FakeLLM(script, model=MODEL) as llm,
        serving(llm) as url,
        claude(url) as ai,
        ai.messages.stream(**ASK, tools=[odd, WEATHER]) as events,
    ):
        kinds = [(e.type, e.index) async for e in events if e.type == "content_block_stop"]
        final = await events.get_final_message()
    assert [index for _, index in kinds] == [0, 1, 2]
    assert [block.type for block in final.content] == ["text", "tool_use", "tool_use"]
    assert final.content[1].input == {"city": "Rome"}  # type: ignore[union-attr]
    assert final.stop_reason == "tool_use"


PICTURE = {"type": "image", "source": {"type": "url", "url": "x"}}
NO_OBJECT = {"type": "tool_use", "id": "a", "name": "b", "input": 3}
BAD: list[tuple[dict[str, Any], int, str]] = [
    ({"max_tokens": None}, 400, "max_tokens"),
    ({"messages": []}, 400, "messages"),
    ({"messages": [{"role": "king", "content": "x"}]}, 400, "messages.0.role"),
    ({"messages": [{"role": "user", "content": [PICTURE]}]}, 400, "messages.0.content.0"),
    ({"messages": [{"role": "user", "content": 3}]}, 400, "messages.0.content"),
    (
        {"messages": [{"role": "assistant", "content": [{"type": "tool_use", "id": "a", "name": "b", "input": 3}]}]},
        400,
        "input",
    ),
    ({"tools": [{"name": "no name", "input_schema": {}}]}, 400, "tool"),
    ({"tools": [{"input_schema": {}}]}, 400, "tool 0"),
    ({"tool_choice": {"type": "any"}}, 400, "tool_choice"),
    ({"tool_choice": {"type": "some"}}, 400, "tool_choice"),
    ({"cache_control": {"type": "ephemeral", "ttl": "2d"}}, 400, "ttl"),
    ({"output_config": {"format": {"type": "json_schema", "schema": {"type": "strange"}}}}, 400, "schema"),
]


@pytest.mark.parametrize(("more", "status", "word"), BAD)
async def test_what_is_wrong_is_named(url: str, more: dict[str, Any], status: int, word: str) -> None:
    async with httpx.AsyncClient(base_url=url, timeout=60) as http:
        for stream in (False, True):
            got = await http.post("/v1/messages", json={**ASK, "max_tokens": 2, "stream": stream, **more})
            assert (got.status_code, got.headers["content-type"]) == (status, "application/json"), got.text
            assert got.json()["type"] == "error"
            assert word in got.json()["error"]["message"]


async def test_unknown_models_and_fields_are_refused_by_a_strict_server_alone(llm: SemShareLLM) -> None:
    odd = [({"model": "claude-9"}, 404), ({"spoon": 1}, 400)]
    for strict in (False, True):
        async with serving(llm, strict=strict) as url, httpx.AsyncClient(base_url=url, timeout=60) as http:
            for more, status in odd:
                got = await http.post("/v1/messages", json={**ASK, "max_tokens": 2, **more})
                assert got.status_code == (status if strict else 200)


async def test_what_an_agent_sends_besides_changes_nothing(url: str) -> None:
    marks = {
        "metadata": {"user_id": "u"},
        "thinking": {"type": "enabled", "budget_tokens": 1024},
        "service_tier": "auto",
        "context_management": {"edits": []},
        "tools": None,
        "system": None,
        "top_k": None,
    }
    async with httpx.AsyncClient(base_url=url, timeout=60, params={"beta": "true"}) as http:
        heads = {"anthropic-version": "2023-06-01", "anthropic-beta": "a,b"}
        bodies = [{**ASK, "max_tokens": 4, **more} for more in ({}, marks)]
        plain, marked = [(await http.post("/v1/messages", json=body, headers=heads)).json() for body in bodies]
    assert plain["content"] == marked["content"]


def test_blocks_are_told_in_the_order_that_models_are_told_them() -> None:
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "hm", "signature": "s"},
                {"type": "redacted_thinking", "data": "x"},
                {"type": "text", "text": "see"},
                {"type": "tool_use", "id": "t1", "name": "f", "input": {"x": 1}},
                {"type": "tool_use", "id": "t2", "name": "f", "input": {}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "and"},
                {"type": "tool_result", "tool_use_id": "t1", "content": "one", "is_error": True},
                {"type": "tool_result", "tool_use_id": "t2"},
            ],
        },
    ]
    system, parts, said, one, two, last = chat_of([{"type": "text", "text": "brief"}], messages)
    assert system == tiny.system("brief")
    assert parts["content"] == [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert (said["content"], said["reasoning_content"]) == ("see", "hm")
    assert [json.loads(call["function"]["arguments"]) for call in said["tool_calls"]] == [{"x": 1}, {}]
    assert (one["tool_call_id"], one["content"]) == ("t1", "Error: one")
    assert (two["tool_call_id"], two["content"]) == ("t2", "")
    assert last == tiny.user("and")


def test_marks_say_how_far_and_how_long() -> None:
    mark = {"cache_control": {"type": "ephemeral"}}
    tools = [{**WEATHER, **mark}]
    messages = [tiny.user("x"), {"role": "user", "content": [{"type": "text", "text": "y", **mark}]}]
    assert list(marks(None, tools, messages, {"type": "ephemeral", "ttl": "1h"})) == [(1, 3600), (-1, 300), (1, 300)]
    assert list(marks("text", None, [tiny.user("x")], None)) == []
