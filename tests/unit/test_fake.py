"""The fake adapter: its face is the real one's, its answers are the script's, its books add up."""

from __future__ import annotations

import asyncio
import inspect
import json
import subprocess
import sys
import time
from contextlib import aclosing
from typing import Any

import pytest

from semshare_agents.errors import ClosedError, ConfigurationError, ContextLengthError, NotStoredError, PinError
from semshare_agents.llm import SemShareLLM
from semshare_agents.testing import FakeLLM, tool_call
from semshare_agents.values import Generation, Piece, ToolCall
from tests.conftest import OpenLLM
from tests.tiny import system, user

TOOL = {"type": "function", "function": {"name": "find", "parameters": {"type": "object", "properties": {}}}}
OTHER = {"type": "function", "function": {"name": "buy", "parameters": {"type": "object", "properties": {}}}}


async def pieces(llm: SemShareLLM, *messages: dict[str, str], **options: Any) -> list[Piece]:
    return [piece async for piece in llm.stream([*messages], **options)]


# --- the face


STAGES = {"pipeline", "turns"}
"""What the adapter has for its own parts, and no application may reach through."""


def public(kind: type) -> dict[str, Any]:
    return {name: value for name, value in vars(kind).items() if not name.startswith("_") and name not in STAGES}


@pytest.mark.parametrize("name", sorted(public(SemShareLLM)))
def test_has_every_method_of_the_adapter_with_its_parameters(name: str) -> None:
    real, fake = public(SemShareLLM)[name], public(FakeLLM)[name]
    assert type(real) is type(fake)
    if isinstance(real, property):
        return
    plain = [getattr(method, "__func__", method) for method in (real, fake)]
    assert len({inspect.iscoroutinefunction(method) for method in plain}) == 1
    shapes = [[(p.name, p.kind, p.default) for p in inspect.signature(m).parameters.values()] for m in plain]
    assert shapes[0] == shapes[1]


def test_passes_for_an_adapter() -> None:
    fake = FakeLLM()
    assert isinstance(fake, SemShareLLM)
    assert isinstance(fake, FakeLLM)
    assert type(fake) is FakeLLM


def test_neither_torch_nor_pytest_is_loaded() -> None:
    code = (
        "import asyncio, sys\n"
        "from semshare_agents.testing import FakeLLM\n"
        "async def main():\n"
        "    async with FakeLLM(['Hello.']) as llm:\n"
        "        print((await llm.generate([{'role': 'user', 'content': 'Hi'}])).text)\n"
        "asyncio.run(main())\n"
        "print(sorted({'torch', 'transformers', 'sqlalchemy', 'pytest'} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.split("\n")[:2] == ["Hello.", "[]"]


BAD: list[tuple[Any, dict[str, Any]]] = [
    ([user("x")], {"temperature": -1.0}),
    ([user("x")], {"warmth": 1}),
    ([user("x")], {"reuse": "some"}),
    ([user("x")], {"fidelity": -2}),
    ([user("x")], {"max_new_tokens": 0}),
    ([user("x")], {"stop": [""]}),
    ([user("x")], {"tools": [{"type": "function"}]}),
    ([user("x")], {"tools": [TOOL], "tool_choice": "sell"}),
    ([user("x")], {"tools": [TOOL, TOOL]}),
    ([user("x")], {"tools": [TOOL], "raw": True}),
    ([user("x")], {"response_schema": "text"}),
    ([], {}),
    ("text", {}),
    ([{"role": "nobody", "content": "x"}], {}),
    ([{"role": "user", "content": 3}], {}),
    ([{"role": "user", "content": [{"type": "image"}]}], {}),
    ([{"role": "assistant", "content": "", "tool_calls": [{}]}], {}),
    ([user("x"), user("y")], {"raw": True}),
]


async def test_refuses_what_the_adapter_refuses_in_its_words(open_llm: OpenLLM) -> None:
    real = await open_llm()
    async with FakeLLM() as fake:
        for messages, options in BAD:
            told = []
            for llm in (real, fake):
                with pytest.raises(Exception) as refused:  # noqa: PT011 - which one is compared
                    await llm.generate(messages, **options)
                told.append((refused.type, str(refused.value)))
            assert told[0] == told[1], (messages, options)
        assert fake.calls == []


async def test_schemas_that_no_answer_can_be_held_to_are_refused(open_llm: OpenLLM) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "strange"}}}
    real = await open_llm()
    async with FakeLLM() as fake:
        kinds = []
        for llm in (real, fake):
            with pytest.raises(Exception, match="strange") as refused:
                await llm.generate([user("x")], response_schema=schema)
            kinds.append(refused.type)
        assert kinds[0] is kinds[1]
        assert (await fake.generate([user("{}")], response_schema={"type": "object"})).text == "{}"


async def test_too_long_prompts_and_closed_adapters_are_refused() -> None:
    async with FakeLLM(context_tokens=12) as llm:
        with pytest.raises(ContextLengthError, match="context length is 12 tokens"):
            await llm.generate([user("a word " * 10)])
        short = await llm.generate([user("one two")])
    assert short.usage.total_tokens <= 12
    for closed in (llm, FakeLLM()):
        with pytest.raises(ClosedError, match="async with FakeLLM"):
            await closed.generate([user("x")])
    with pytest.raises(ConfigurationError):
        FakeLLM(warmth=1)


# --- answers


async def test_a_list_of_answers_is_given_in_order_and_then_fails_the_test() -> None:
    async with FakeLLM(["One.", ["Look: ", tool_call("find", a=1)], ContextLengthError("too long")]) as llm:
        assert (await llm.generate([user("x")])).text == "One."
        second = await llm.generate([user("x")], tools=[TOOL])
        with pytest.raises(ContextLengthError, match="too long"):
            await llm.generate([user("x")])
        with pytest.raises(AssertionError, match="its script holds 3; asked was"):
            await llm.generate([user("x")])
    assert (second.text, second.finish_reason) == ("Look: ", "tool_calls")
    assert [(call.name, json.loads(call.arguments)) for call in second.tool_calls] == [("find", {"a": 1})]
    assert second.tool_calls[0].id
    assert second.tool_calls[0].arguments in second.raw


async def test_one_text_a_function_or_an_echo() -> None:
    async with FakeLLM("Yes.") as llm:
        assert [(await llm.generate([user("x")])).text for _ in range(3)] == ["Yes."] * 3
    async with FakeLLM(lambda messages: f"{len(messages)} messages") as llm:
        assert (await llm.generate([system("s"), user("x")])).text == "2 messages"
    async with FakeLLM.open(max_new_tokens=3) as llm:
        cut = await llm.generate([user("one two three four")])
    assert (cut.text, cut.finish_reason, cut.usage.completion_tokens) == ("one two three", "length", 3)


async def test_calls_are_recorded_with_what_was_made_of_them() -> None:
    async with FakeLLM("Yes.", tenant="acme") as llm:
        await llm.generate([{"role": "user", "content": [{"type": "text", "text": "Hi"}]}], session="ana", top_k=3)
    call = llm.calls[0]
    assert call.messages == [user("Hi")]
    assert call.options == {"session": "ana", "top_k": 3}
    assert (call.request.tenant, call.request.session, call.request.sampling.top_k) == ("acme", "ana", 3)


@pytest.mark.parametrize("room", [1, 3, 5, 9, 40])
async def test_what_streams_adds_up_to_what_is_told_at_the_end(room: int) -> None:
    said = ["So I  look\n", tool_call("find", text="a b"), ToolCall("mine", "buy", "{}")]
    async with FakeLLM([said]) as llm:
        got = await pieces(llm, user("x"), tools=[TOOL, OTHER], max_new_tokens=room)
    *parts, last = got
    whole = last.generation
    assert isinstance(whole, Generation)
    assert all(piece.generation is None for piece in parts)
    assert "".join(piece.text for piece in got) == whole.text
    streamed: dict[int, list[str]] = {}
    for part in (part for piece in parts for part in piece.tool_calls):
        if part.name:
            streamed[part.index] = [part.id, part.name, ""]
        streamed[part.index][2] += part.arguments
    assert [ToolCall(*call) for call in streamed.values()] == list(whole.tool_calls)
    assert whole.usage.completion_tokens == len(whole.tokens) <= room
    if whole.finish_reason == "length":
        assert len(whole.tokens) == room
    else:
        assert whole.text == "So I  look\n"
        assert [call.id for call in whole.tool_calls][1:] == ["mine"]


async def test_stop_strings_end_an_answer() -> None:
    async with FakeLLM([["One. Two. Three.", tool_call("find")]]) as llm:
        answer = await llm.generate([user("x")], tools=[TOOL], stop=["Three", " Two"])
    assert (answer.text, answer.finish_reason, answer.tool_calls) == ("One.", "stop", ())


async def test_a_script_that_calls_a_tool_that_is_not_there_is_wrong() -> None:
    async with FakeLLM([tool_call("sell"), tool_call("find")]) as llm:
        with pytest.raises(AssertionError, match=r"calls 'sell'; the tools that were given are \['find'\]"):
            await llm.generate([user("x")], tools=[TOOL])
        with pytest.raises(AssertionError, match="calls 'find'"):
            await llm.generate([user("x")], tools=[TOOL], tool_choice="none")


async def test_a_delay_lets_a_timeout_strike_and_a_closed_stream_is_not_remembered() -> None:
    async with FakeLLM("one two three", delay_seconds=0.2) as llm:
        began = time.monotonic()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await llm.generate([user("x")], session="ana")
        assert time.monotonic() - began < 0.2
        async with aclosing(llm.stream([user("x")], session="ana")) as stream:
            async for _ in stream:
                break
        assert await llm.reader.stored.history("default", "ana") == []


# --- memory


async def test_reports_add_up_and_tell_of_reuse_as_the_adapters_do(open_llm: OpenLLM) -> None:
    real = await open_llm()
    async with FakeLLM("A long answer.") as fake:
        for llm in (real, fake):
            talk = llm.session("ana", system="You are one. " * 4)
            first, second = await talk.send("Hello there " * 8), await talk.send("And then?")
            off = await llm.generate([user("Hello")], reuse="off", store=False)
            for answer in (first, second, off):
                report, usage = answer.report, answer.usage
                assert sum(report.tokens.values()) == usage.prompt_tokens
                assert sum(span.length for span in report.spans) == usage.prompt_tokens
                assert usage.cached_tokens == report.tokens["exact"] == sum(report.donors.values())
                assert 0 < report.rows_share <= 1
                assert report.ttft_seconds > 0
            assert (first.report.reuse_class, second.report.reuse_class) == ("cold", "exact")
            assert second.usage.cached_tokens >= first.usage.prompt_tokens // 2
            assert second.report.donors.keys() == {first.report.turn_id}
            assert (off.report.reason, off.report.turn_id) == ("reuse is off", None)
            assert [m["role"] for m in await talk.messages()] == ["system", "user", "assistant", "user", "assistant"]


async def test_tenants_share_nothing() -> None:
    async with FakeLLM("Yes.") as llm:
        await llm.generate([user("a b c d")], tenant="acme")
        other = await llm.generate([user("a b c d")], tenant="bolt")
        again = await llm.generate([user("a b c d")], tenant="acme")
    assert (other.usage.cached_tokens, again.usage.cached_tokens) == (0, again.usage.prompt_tokens - 1)


async def test_what_is_forgotten_is_gone_with_what_goes_on_from_it() -> None:
    async with FakeLLM("Yes.") as llm:
        talk, other = llm.session("ana"), llm.session("bo")
        first = await talk.send("one")
        await talk.send("two")
        kept = await other.send("three")
        gone = await llm.forget(turn=first.report.turn_id)
        assert gone.turn_ids == (1, 2)
        with pytest.raises(NotStoredError, match="is it 'bo'"):
            await llm.forget(session="Bo")
        assert (await llm.forget(session="bo", dry_run=True)).turn_ids == (3,)
        assert await talk.messages() == []
        assert len(await other.messages()) == 2
        assert [row.id for row in await llm.reader.stored.browse("default")] == [kept.report.turn_id]
        assert (await llm.forget(tenant="default")).turn_ids == (3,)
        with pytest.raises(ConfigurationError, match="say what to forget"):
            await llm.forget()


async def test_pins() -> None:
    async with FakeLLM("Yes.") as llm:
        with pytest.raises(PinError, match="no session 'ana'"):
            await llm.pin(session="ana")
        talk = llm.session("ana")
        answer = await talk.send("one")
        pin = await talk.pin(seconds=0.05)
        await llm.pin(turn=answer.report.turn_id)
        assert (pin.session, pin.blocks) == ("ana", 1)
        assert [p.turn_id for p in await llm.pins()] == [None, 1]
        await asyncio.sleep(0.06)
        assert [p.turn_id for p in await llm.pins()] == [1]
        assert await llm.unpin(turn=1)
        assert not await talk.unpin()
        for wrong in ({}, {"session": "ana", "turn": 1}, {"session": "ana", "seconds": -1.0}):
            with pytest.raises(ConfigurationError):
                await llm.pin(**wrong)
        await llm.flush()
        await llm.settle()


async def test_several_answers_come_from_the_script_one_after_the_other() -> None:
    async with FakeLLM(["one", "two", "three"]) as llm:
        found = [piece async for piece in llm.stream([{"role": "user", "content": "hi"}], n=2)]
        assert [(p.generation.choice, p.generation.text) for p in found if p.generation] == [(0, "one"), (1, "two")]
        assert len(llm.calls) == 1
        assert (await llm.generate([{"role": "user", "content": "hi"}])).text == "three"
        with pytest.raises(ConfigurationError, match="stream"):
            await llm.generate([{"role": "user", "content": "hi"}], n=2)
