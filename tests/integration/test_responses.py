"""`/v1/responses`, asked by the official OpenAI client."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Literal

import httpx2 as httpx
import openai
import pytest
from openai.types.responses import Response
from pydantic import BaseModel
from semshare_server import Keyring
from semshare_server.keys import digest
from semshare_server.responses.items import input_messages
from semshare_server.responses.kept import answer_of, item_ids, new_id, session_of

from semshare_agents.errors import PromptError
from semshare_agents.llm import SemShareLLM
from semshare_agents.testing import FakeLLM, tool_call
from tests import tiny
from tests.serving import MODEL, client, serving

OpenLLM = Callable[..., Awaitable[SemShareLLM]]
KEYS = Keyring({digest("sk-a"): "acme", digest("sk-b"): "bolt"})
WEATHER: Any = {
    "type": "function",
    "name": "weather",
    "description": "Weather of a city.",
    "parameters": {
        "type": "object",
        "properties": {"city": {"enum": ["Oslo", "Rome"]}},
        "required": ["city"],
        "additionalProperties": False,
    },
    "strict": True,
}


class Flag(BaseModel):
    """An answer that cannot be long, whatever the model."""

    stripes: Literal[2, 3]
    old: bool


async def test_a_response_is_the_chat_s_answer(url: str, llm: SemShareLLM) -> None:
    asked = tiny.words(30, seed=1)
    async with client(url) as ai:
        got = await ai.responses.create(model=MODEL, input=asked, instructions="be brief", max_output_tokens=6)
        again = await ai.responses.create(model=MODEL, input=asked, instructions="be brief", max_output_tokens=6)
    cold = await llm.generate([tiny.system("be brief"), tiny.user(asked)], reuse="off", max_new_tokens=6, store=False)
    assert got.output_text == again.output_text == cold.text
    assert got.status == "incomplete"
    assert got.incomplete_details is not None
    assert got.incomplete_details.reason == "max_output_tokens"
    assert (got.instructions, got.object, got.error) == ("be brief", "response", None)
    assert again.usage is not None
    assert again.usage.input_tokens == cold.usage.prompt_tokens
    assert again.usage.input_tokens_details.cached_tokens > 100
    assert again.usage.total_tokens == again.usage.input_tokens + again.usage.output_tokens
    assert again.model_extra["semshare"]["class"] == "exact"  # type: ignore[index]


ORDER = [
    "response.created",
    "response.in_progress",
    "response.output_item.added",
    "response.content_part.added",
    "response.output_text.delta",
    "response.output_text.done",
    "response.content_part.done",
    "response.output_item.done",
    "response.incomplete",
]


async def test_events_come_in_the_order_that_clients_expect(url: str) -> None:
    async with client(url) as ai:
        whole = await ai.responses.create(model=MODEL, input="Hi", max_output_tokens=6)
        stream = await ai.responses.create(model=MODEL, input="Hi", max_output_tokens=6, stream=True)
        events: list[Any] = [event async for event in stream]
        kept = await ai.responses.retrieve(events[-1].response.id)
    assert list(dict.fromkeys(event.type for event in events)) == ORDER
    assert [event.sequence_number for event in events] == list(range(len(events)))
    deltas = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    last: Response = events[-1].response
    assert deltas == last.output_text == whole.output_text
    assert events[0].response.status == "in_progress"
    assert events[0].response.id == last.id
    item = events[2].item
    assert {event.item_id for event in events if hasattr(event, "item_id")} == {item.id} == {last.output[0].id}
    assert last.usage is not None
    assert kept == last


async def test_the_client_s_own_stream_puts_it_together(url: str) -> None:
    async with (
        client(url) as ai,
        ai.responses.stream(model=MODEL, input="Hi", max_output_tokens=60, text_format=Flag) as events,
    ):
        async for _ in events:
            pass
        final = await events.get_final_response()
    assert isinstance(final.output_parsed, Flag)


async def test_an_answer_keeps_to_its_format(url: str) -> None:
    async with client(url) as ai:
        parsed = await ai.responses.parse(model=MODEL, input="a flag", text_format=Flag, max_output_tokens=60)
        loose = await ai.responses.create(
            model=MODEL, input="an object", text={"format": {"type": "json_object"}}, max_output_tokens=3
        )
    assert isinstance(parsed.output_parsed, Flag)
    assert loose.output_text.startswith("{")
    assert parsed.text is not None
    assert parsed.text.format is not None
    assert parsed.text.format.type == "json_schema"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_call_and_its_output_go_on(url: str, stream: bool) -> None:
    forced: Any = {"model": MODEL, "tools": [WEATHER], "max_output_tokens": 300}
    async with client(url) as ai:
        choice: Any = {"type": "function", "name": "weather"}
        if stream:
            events: list[Any] = [
                e async for e in await ai.responses.create(**forced, input="Rome?", tool_choice=choice, stream=True)
            ]
            first: Response = events[-1].response
            added = next(e for e in events if e.type == "response.output_item.added")
            done = next(e for e in events if e.type == "response.function_call_arguments.done")
            said = "".join(e.delta for e in events if e.type == "response.function_call_arguments.delta")
            assert added.item.type == "function_call"
            assert added.item.arguments == ""
        else:
            first = await ai.responses.create(**forced, input="Rome?", tool_choice=choice)
        (call,) = first.output
        assert call.type == "function_call"
        assert call.status == first.status == "completed"
        assert json.loads(call.arguments)["city"] in ("Oslo", "Rome")
        if stream:
            assert said == done.arguments == call.arguments
        result: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "Rain."}
        short = {**forced, "max_output_tokens": 6}
        second = await ai.responses.create(**short, input=[result], previous_response_id=first.id)
        echoed: Any = [{"role": "user", "content": "Rome?"}, call.model_dump(), result]
        whole = await ai.responses.create(**short, input=echoed)
        named: Any = [{"role": "user", "content": "Rome?"}, {"type": "item_reference", "id": call.id}, result]
        by_name = await ai.responses.create(**short, input=named)
        with pytest.raises(openai.BadRequestError, match="c9"):
            await ai.responses.create(**short, input=[{**result, "call_id": "c9"}], previous_response_id=first.id)
    assert second.output_text == whole.output_text == by_name.output_text
    assert second.usage is not None
    assert second.usage.input_tokens_details.cached_tokens > 100


async def test_a_cut_call_is_incomplete_and_does_not_parse(url: str) -> None:
    wide: Any = {
        **WEATHER,
        "parameters": {"type": "object", "properties": {"text": {"type": "string"}}},
        "strict": None,
    }
    async with client(url) as ai:
        cut = await ai.responses.create(
            model=MODEL, input="?", tools=[wide], tool_choice="required", max_output_tokens=60
        )
    (call,) = cut.output
    assert call.type == "function_call"
    assert (cut.status, call.status) == ("incomplete", "incomplete")
    with pytest.raises(json.JSONDecodeError):
        json.loads(call.arguments)


async def test_previous_responses_outlive_a_restart_and_belong_to_a_tenant(open_llm: OpenLLM, tmp_path: Path) -> None:
    llm = await open_llm(home=tmp_path)
    async with serving(llm, KEYS) as url, client(url, "sk-a") as ai:
        first = await ai.responses.create(
            model=MODEL, input=tiny.words(20, 1), instructions="one", max_output_tokens=6, metadata={"a": "b"}
        )
        left = await ai.responses.create(model=MODEL, input="left", previous_response_id=first.id, max_output_tokens=6)
    await llm.aclose()
    again = await open_llm(home=tmp_path)
    async with serving(again, KEYS) as url, client(url, "sk-a") as ai, client(url, "sk-b") as other:
        assert (await ai.responses.retrieve(first.id)).model_dump() == first.model_dump()
        right = await ai.responses.create(
            model=MODEL, input="right", previous_response_id=first.id, instructions="two", max_output_tokens=6
        )
        assert right.previous_response_id == left.previous_response_id == first.id
        rows = await again.reader.stored.browse("acme")
        assert len({row.session for row in rows}) == 1
        history = await again.reader.stored.history("acme", str(rows[0].session))
        told = [tiny.system("two"), tiny.user(tiny.words(20, 1)), tiny.assistant(first.output_text), tiny.user("right")]
        assert history[:-1] == told
        with pytest.raises(openai.NotFoundError):
            await other.responses.retrieve(first.id)
        with pytest.raises(openai.NotFoundError):
            await other.responses.delete(first.id)
        with pytest.raises(openai.BadRequestError, match="not found") as lost:
            await other.responses.create(model=MODEL, input="x", previous_response_id=first.id)
        assert lost.value.code == "previous_response_not_found"
        await ai.responses.delete(left.id)
        await ai.responses.retrieve(first.id)
        await ai.responses.delete(first.id)
        for gone in (first, left, right):
            with pytest.raises(openai.NotFoundError):
                await ai.responses.retrieve(gone.id)
        assert await again.reader.stored.browse("acme") == []


def readable(folder: Path, word: bytes) -> list[Path]:
    """Files that hold a word."""
    return [path for path in folder.rglob("*") if path.is_file() and word in path.read_bytes()]


async def test_a_kept_response_is_encrypted_with_its_turn(open_llm: OpenLLM, tmp_path: Path) -> None:
    told: Any = {"instructions": "xylophone", "metadata": {"word": "xylophone"}}
    llm = await open_llm(home=tmp_path, encryption_keys="ab" * 32)
    async with serving(llm) as url, client(url) as ai:
        first = await ai.responses.create(model=MODEL, input="xylophone", max_output_tokens=4, **told)
    await llm.aclose()
    assert not readable(tmp_path, b"xylophone")
    again = await open_llm(home=tmp_path, encryption_keys="ab" * 32)
    async with serving(again) as url, client(url) as ai:
        assert (await ai.responses.retrieve(first.id)).instructions == "xylophone"


async def test_what_is_gone_on_from_is_reused_exactly(url: str) -> None:
    async with client(url) as ai:
        first = await ai.responses.create(model=MODEL, input=tiny.words(40, 1), max_output_tokens=8)
        second = await ai.responses.create(
            model=MODEL, input="go on", previous_response_id=first.id, max_output_tokens=8
        )
    assert first.usage is not None
    assert second.usage is not None
    assert second.usage.input_tokens_details.cached_tokens >= first.usage.input_tokens


async def test_store_false_keeps_nothing(url: str, llm: SemShareLLM) -> None:
    async with client(url) as ai:
        for more in ({"store": False}, {"extra_body": {"semshare": {"store": False}}}):
            got = await ai.responses.create(model=MODEL, input="my secret", max_output_tokens=4, **more)  # type: ignore[call-overload]
            assert got.store is False
            with pytest.raises(openai.NotFoundError):
                await ai.responses.retrieve(got.id)
    assert await llm.reader.stored.browse("default") == []


async def test_a_named_session_has_its_responses(url: str, llm: SemShareLLM) -> None:
    own: Any = {"extra_body": {"semshare": {"session": "Ana, 1"}}}
    async with client(url) as ai:
        first = await ai.responses.create(model=MODEL, input="Hi", max_output_tokens=4, **own)
        second = await ai.responses.create(model=MODEL, input="on", max_output_tokens=4, previous_response_id=first.id)
        with pytest.raises(openai.BadRequestError, match="session"):
            await ai.responses.create(
                model=MODEL,
                input="on",
                previous_response_id=first.id,
                extra_body={"semshare": {"session": "other"}},
            )
    assert [row.session for row in await llm.reader.stored.browse("default")] == ["Ana, 1", "Ana, 1"]
    await llm.forget(session="Ana, 1")
    async with client(url) as ai:
        for gone in (first, second):
            with pytest.raises(openai.NotFoundError):
                await ai.responses.retrieve(gone.id)


async def test_tools_of_other_kinds_are_passed_over_and_named(url: str) -> None:
    odd: Any = [WEATHER, {"type": "web_search"}, {"type": "custom", "name": "apply_patch"}]
    allowed: Any = {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "weather"}]}
    async with client(url) as ai:
        got = await ai.responses.create(model=MODEL, input="?", tools=odd, tool_choice=allowed, max_output_tokens=200)
        with pytest.raises(openai.BadRequestError, match="web_search"):
            await ai.responses.create(model=MODEL, input="?", tools=odd, tool_choice={"type": "web_search"})  # type: ignore[call-overload]
    assert got.model_extra["semshare"]["tools_passed_over"] == ["web_search", "apply_patch"]  # type: ignore[index]
    assert got.output[0].type == "function_call"


PICTURE = {"type": "input_image", "image_url": "x"}
BAD: list[tuple[dict[str, Any], int, str]] = [
    ({"input": None}, 400, "input"),
    ({"input": [{"role": "user", "content": [PICTURE]}]}, 400, "input.0.content.0"),
    ({"input": [{"role": "user", "content": 3}]}, 400, "input.0.content"),
    ({"input": [{"role": "king", "content": "x"}]}, 400, "input.0.role"),
    ({"input": [{"type": "web_search_call", "id": "x"}]}, 400, "web_search_call"),
    ({"input": [{"type": "function_call", "call_id": "c", "name": 3, "arguments": "{}"}]}, 400, "input.0.name"),
    ({"input": [{"type": "item_reference", "id": "msg_1"}]}, 400, "msg_1"),
    ({"input": "x" * 5000}, 400, "context"),
    ({"previous_response_id": "resp_1"}, 400, "resp_1"),
    ({"background": True}, 400, "background"),
    ({"conversation": "conv_1"}, 400, "conversation"),
    ({"tools": [{"type": "function", "name": "no name"}]}, 400, "tool"),
    ({"tools": [{"type": "function"}]}, 400, "tool 0"),
    ({"tool_choice": "required"}, 400, "tool_choice"),
    ({"tool_choice": {"type": "allowed_tools", "tools": 3}}, 400, "tool_choice.tools"),
    ({"text": {"format": {"type": "json_schema", "name": "x", "schema": {"type": "strange"}}}}, 400, "schema"),
]


@pytest.mark.parametrize(("more", "status", "word"), BAD)
async def test_what_is_wrong_is_named(url: str, more: dict[str, Any], status: int, word: str) -> None:
    async with httpx.AsyncClient(base_url=url, timeout=60) as http:
        for stream in (False, True):
            body = {"model": MODEL, "input": "x", "max_output_tokens": 2, "stream": stream, **more}
            got = await http.post("/v1/responses", json=body)
            assert (got.status_code, got.headers["content-type"]) == (status, "application/json"), got.text
            assert word in got.json()["error"]["message"]


async def test_unknown_models_and_fields_are_refused_by_a_strict_server_alone(llm: SemShareLLM) -> None:
    body = {"input": "x", "max_output_tokens": 2}
    odd = [({"model": "gpt-9"}, 404), ({"model": MODEL, "spoon": 1}, 400)]
    for strict in (False, True):
        async with serving(llm, strict=strict) as url, httpx.AsyncClient(base_url=url, timeout=60) as http:
            for more, status in odd:
                got = await http.post("/v1/responses", json=body | more)
                assert got.status_code == (status if strict else 200)
    assert got.json()["error"]["param"] == "spoon"


async def test_null_is_absent_and_marks_change_nothing(url: str) -> None:
    absent = dict.fromkeys(
        ("instructions", "previous_response_id", "tools", "tool_choice", "text", "temperature", "store", "prompt")
    )
    marks = {
        "user": "u",
        "service_tier": "auto",
        "include": ["reasoning.encrypted_content"],
        "reasoning": {"effort": "low", "summary": "auto"},
        "prompt_cache_key": "k",
        "truncation": "auto",
        "text": {"verbosity": "low"},
        "stream_options": {"include_obfuscation": False},
    }
    async with httpx.AsyncClient(base_url=url, timeout=60) as http:
        body = {"model": MODEL, "input": "x", "max_output_tokens": 4}
        answers = [(await http.post("/v1/responses", json=body | more)).json() for more in ({}, absent, marks)]
    assert len({answer["output"][0]["content"][0]["text"] for answer in answers}) == 1


async def test_a_stream_that_fails_says_so() -> None:
    script = [PromptError("no"), ["Let me see. ", tool_call("weather", city="Rome")]]
    async with FakeLLM(script, model=MODEL) as llm, serving(llm, ping_seconds=1) as url, client(url) as ai:
        with pytest.raises(openai.BadRequestError, match="no"):
            await ai.responses.create(model=MODEL, input="x", stream=True)
        stream = await ai.responses.create(model=MODEL, input="x", tools=[WEATHER], stream=True)
        events: list[Any] = [event async for event in stream]
        kinds = [item.type for item in events[-1].response.output]
        assert kinds == ["message", "function_call"]
        assert events[-1].type == "response.completed"
        assert events[-1].response.output[0].status == "completed"


async def test_what_fails_after_the_first_events_is_told() -> None:
    class Failing(FakeLLM):
        async def _answered(self, messages: Any, options: Any) -> Any:
            async for piece in super()._answered(messages, options):
                if piece.generation is not None:
                    raise PromptError("it broke")
                yield piece

    async with Failing("Yes it is.", model=MODEL) as llm, serving(llm) as url, client(url) as ai:
        stream = await ai.responses.create(model=MODEL, input="x", stream=True)
        events: list[Any] = [event async for event in stream]
    assert events[-1].type == "response.failed"
    assert events[-1].response.error.message == "it broke"


def test_ids_name_their_session() -> None:
    for session in ("a", "Ana, 1", "naïve", "x" * 200):
        identifier = new_id(session)
        assert session_of(identifier) == session
        assert answer_of(item_ids(identifier)("msg", 123)) == identifier
    for other in ("resp_1", "resp_" + "a" * 24 + "_!", "resp_" + "a" * 24 + "_AAAA", "resp_" + "a" * 24 + "_gICA", ""):
        assert session_of(other) is None


def test_what_an_assistant_thinks_says_and_calls_is_one_message() -> None:
    items: list[dict[str, Any]] = [
        {"role": "user", "content": [{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}]},
        {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "see"}]},
        {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"},
        {"type": "function_call", "call_id": "c2", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c1", "output": "one"},
        {"type": "function_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "two"}]},
        {"type": "function_call", "call_id": "c3", "name": "f", "arguments": "{}"},
    ]
    parts, said, one, two, last = input_messages(items, {})
    assert parts["content"] == [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert (said["content"], said["reasoning_content"]) == ("see", "hm")
    assert [call["id"] for call in said["tool_calls"]] == ["c1", "c2"]
    assert (one["content"], two["content"], two["tool_call_id"]) == ("one", "two", "c2")
    assert (last["role"], last["content"], len(last["tool_calls"])) == ("assistant", "", 1)
