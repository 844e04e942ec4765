"""Tool calls and JSON answers of whole turns, on tiny models that know nothing of either."""

from __future__ import annotations

import asyncio
import copy
import json
import sys
from typing import Any

import jsonschema_rs
import pytest
from blockbuster import blockbuster_ctx

import semshare_agents
from semshare_agents.errors import ConfigurationError, InvalidSchemaError, InvalidToolsError
from semshare_agents.llm import SemShareLLM
from semshare_agents.model.loading import prepare
from semshare_agents.tools.checking import clean_tools
from semshare_agents.values import Generation, Piece
from tests import tiny
from tests.conftest import OpenLLM
from tests.tiny import assistant, system, user

STORY = [tiny.words(30, seed) for seed in range(6)]
FLAG = {
    "type": "object",
    "properties": {"on": {"type": "boolean"}, "level": {"enum": [1, 2]}},
    "required": ["on", "level"],
}
TOOLS = [
    {"type": "function", "function": {"name": "light", "description": "Switch a light.", "parameters": FLAG}},
    {"type": "function", "function": {"name": "rest", "description": "Do nothing."}},
]
ROOM = {"max_new_tokens": 200}


async def streamed(llm: SemShareLLM, messages: Any, **options: Any) -> tuple[list[Piece], Generation]:
    pieces = [piece async for piece in llm.stream(messages, **options)]
    generation = pieces[-1].generation
    assert generation is not None
    return pieces[:-1], generation


@pytest.mark.parametrize("family", ["llama", "gpt2", "bloom-alibi", "mamba"])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
async def test_a_named_tool_is_called(open_llm: OpenLLM, family: str, temperature: float) -> None:
    llm = await open_llm(family)
    pieces, done = await streamed(
        llm, [user("x")], tools=TOOLS, tool_choice="light", temperature=temperature, seed=3, max_new_tokens=120
    )
    [call] = done.tool_calls
    assert call.name == "light"
    jsonschema_rs.validate(FLAG, json.loads(call.arguments))
    assert (done.text, done.finish_reason) == ("", "tool_calls")
    parts = [part for piece in pieces for part in piece.tool_calls]
    assert (parts[0].id, parts[0].name) == (call.id, "light")
    assert "".join(part.arguments for part in parts) == call.arguments
    assert len(parts) > 5


async def test_an_answer_keeps_to_a_schema(open_llm: OpenLLM) -> None:
    llm = await open_llm()
    done = await llm.generate([user("x")], response_schema=FLAG, **ROOM)
    jsonschema_rs.validate(FLAG, json.loads(done.text))
    assert (done.finish_reason, done.tool_calls) == ("stop", ())
    assert done.raw == done.text


async def test_an_answer_that_is_cut_off_says_so(open_llm: OpenLLM) -> None:
    llm = await open_llm()
    cut = await llm.generate([user("x")], response_schema=FLAG, max_new_tokens=8)
    assert cut.finish_reason == "length"
    assert (await llm.generate([user("x")], response_schema=FLAG, **ROOM)).text.startswith(cut.text)
    named = await llm.generate([user("x")], tools=TOOLS, tool_choice="light", max_new_tokens=60)
    [call] = named.tool_calls
    assert named.finish_reason == "length"
    assert call.arguments.startswith("{")
    assert not call.whole
    unnamed = await llm.generate([user("x")], tools=TOOLS, tool_choice="light", max_new_tokens=20)
    assert (unnamed.finish_reason, unnamed.tool_calls, unnamed.text) == ("length", (), "")
    assert unnamed.raw.startswith("<tool_call>")


async def test_free_answers_are_what_they_would_be(open_llm: OpenLLM) -> None:
    """A constraint that leaves the model free changes no token: the prompt with tools, told by hand, says the same."""
    llm = await open_llm()
    output = llm.pipeline.output
    with_tools = await llm.generate([user("x")], tools=TOOLS, max_new_tokens=30, store=False)
    told, none = output.chat.told([dict(user("x"))], clean_tools(TOOLS))
    assert none is None
    plain = await llm.generate([message for _, message in told], max_new_tokens=30, store=False)
    assert with_tools.tokens == plain.tokens
    assert with_tools.text == with_tools.raw


async def test_none_leaves_tools_out(open_llm: OpenLLM) -> None:
    llm = await open_llm()
    plain = await llm.generate([user("x")], store=False)
    none = await llm.generate([user("x")], tools=TOOLS, tool_choice="none", store=False)
    assert (none.tokens, none.usage.prompt_tokens) == (plain.tokens, plain.usage.prompt_tokens)


async def test_the_next_turn_reuses_call_and_result(open_llm: OpenLLM) -> None:
    llm = await open_llm()
    asked: list[Any] = [system(STORY[0]), user(STORY[1])]
    first = await llm.generate(asked, tools=TOOLS, tool_choice="light", **ROOM)
    await llm.flush()
    [call] = first.tool_calls
    calls = [{"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}]
    follow = [
        *asked,
        {**assistant(""), "tool_calls": calls},
        {"role": "tool", "tool_call_id": call.id, "content": "ok"},
    ]
    cold = await llm.generate(follow, tools=TOOLS, reuse="off", store=False)
    second = await llm.generate(follow, tools=TOOLS)
    # The template writes the call as the model did, so what was generated is reused too.
    assert second.report.tokens["exact"] >= first.usage.prompt_tokens + len(first.tokens) - 1
    assert second.tokens == cold.tokens


async def test_sessions_keep_calls_as_they_were_written(open_llm: OpenLLM) -> None:
    llm = await open_llm()
    session = llm.session("s")
    first = await session.send("x", tools=TOOLS, tool_choice="light", **ROOM)
    assert (await session.messages())[-1] == assistant(first.raw)
    await llm.flush()
    assert await llm.session("s").messages() == await session.messages()


@pytest.mark.parametrize("extra", [{"repair_rows": 8}, {"retention": "constant", "retention_share": 0.5}])
async def test_reuse_repair_and_retention_go_with_constraints(open_llm: OpenLLM, extra: dict[str, Any]) -> None:
    llm = await open_llm(**extra)
    body = user(" ".join(STORY[:3]))
    await llm.generate([system("be brief"), body])
    await llm.flush()
    moved = await llm.generate([system("answer at length"), body], response_schema=FLAG, **ROOM)
    assert moved.report.reuse_class == "moved"
    jsonschema_rs.validate(FLAG, json.loads(moved.text))
    await llm.settle()


async def test_answers_side_by_side_keep_to_their_own_schemas(open_llm: OpenLLM) -> None:
    llm = await open_llm()
    schemas = [{"enum": [f"answer {i}"]} for i in range(6)]
    answers = await asyncio.gather(
        *(llm.generate([user(f"x{i}")], response_schema=s, **ROOM) for i, s in enumerate(schemas))
    )
    assert [json.loads(a.text) for a in answers] == [f"answer {i}" for i in range(6)]


async def test_the_event_loop_is_never_blocked(open_llm: OpenLLM) -> None:
    llm = await open_llm()
    with blockbuster_ctx(scanned_modules=[semshare_agents]):
        await llm.generate([user("x")], tools=TOOLS, tool_choice="required", **ROOM)
        await llm.generate([user("x")], tools=TOOLS, response_schema=FLAG, **ROOM)


@pytest.mark.parametrize(
    ("options", "error", "problem"),
    [
        ({"response_schema": {"type": "objec"}}, InvalidSchemaError, "objec"),
        ({"response_schema": "json"}, InvalidSchemaError, "mapping"),
        ({"response_schema": {"enum": [{1, 2}]}}, InvalidSchemaError, "no JSON"),
        ({"tools": TOOLS, "tool_choice": "fly"}, InvalidToolsError, "light, rest"),
        ({"tools": [TOOLS[0], TOOLS[0]]}, InvalidToolsError, "two tools"),
        ({"tools": TOOLS, "raw": True}, InvalidToolsError, "raw"),
    ],
)
async def test_what_cannot_be_is_refused_before_anything_is_computed(
    open_llm: OpenLLM, options: dict[str, Any], error: type[Exception], problem: str
) -> None:
    llm = await open_llm()
    with pytest.raises(error, match=problem):
        await llm.generate([user("x")], **options)
    assert (await llm.generate([user("x")])).tokens


async def test_without_the_library_what_needs_it_is_refused_and_the_rest_goes_on(
    open_llm: OpenLLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "llguidance", None)
    llm = await open_llm()
    with pytest.raises(ConfigurationError, match=r"semshare-agents\[structured\]"):
        await llm.generate([user("x")], response_schema=FLAG)
    with pytest.raises(ConfigurationError, match="structured"):
        await llm.generate([user("x")], tools=TOOLS, tool_choice="required")
    assert (await llm.generate([user("x")], tools=TOOLS)).tokens


async def test_control_tokens_of_calls_are_read(open_llm: OpenLLM) -> None:
    """A model whose calls begin with a special token: it is drawn as one, and read although it is no text."""
    tokenizer = copy.deepcopy(tiny.tokenizer())
    tokenizer.add_special_tokens({"additional_special_tokens": ["[TOOL_CALLS]", "[ARGS]"]})
    tokenizer.chat_template = tiny.TEMPLATE + "{# [TOOL_CALLS]name[ARGS]{} #}"
    model = prepare(tiny.build("llama"), tokenizer, "tiny-mistral")
    llm = await open_llm(model)
    done = await llm.generate([user("x")], tools=TOOLS, tool_choice="light", **ROOM)
    assert tokenizer.convert_tokens_to_ids("[TOOL_CALLS]") in done.tokens
    assert [call.name for call in done.tool_calls] == ["light"]
    assert done.raw.startswith("[TOOL_CALLS]light[ARGS]{")
