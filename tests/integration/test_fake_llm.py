"""The fake adapter where applications put it: behind LangChain's models and behind the server."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx2 as httpx
import openai
import pytest
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_semshare import ChatSemShare, SemShareCompletion
from langchain_semshare import host as hosts

from semshare_agents.errors import ContextLengthError
from semshare_agents.testing import FakeLLM, tool_call
from tests.serving import client, serving
from tests.tiny import user

TOOL: Any = {"type": "function", "function": {"name": "find", "parameters": {"type": "object", "properties": {}}}}


@tool
def weather(place: str) -> str:
    """Tell the weather at a place."""
    return f"Sun at {place}."


# --- LangChain


async def test_chat_model_answers_streams_and_counts() -> None:
    async with FakeLLM(["A river.", "A longer river.", "The same."]) as llm:
        model = ChatSemShare(llm=llm, session="ana", temperature=0.5)
        first = await model.ainvoke("Name one.")
        parts = [part async for part in model.astream([HumanMessage("Name one."), first, HumanMessage("Another?")])]
        blocking = await asyncio.to_thread(model.invoke, "Name one.")
    assert first.text == "A river."
    assert "".join(part.text for part in parts) == "A longer river."
    assert len([part for part in parts if part.text]) == 3
    assert blocking.text == "The same."
    assert first.usage_metadata is not None
    assert first.usage_metadata["input_token_details"]["cache_read"] == 0
    whole = sum(parts[1:], parts[0])
    assert whole.usage_metadata is not None
    assert whole.usage_metadata["input_token_details"]["cache_read"] > 3
    assert (llm.calls[0].request.session, llm.calls[0].request.sampling.temperature) == ("ana", 0.5)
    assert model.model == "fake"


async def test_tools_are_called_and_their_results_come_back() -> None:
    said = [tool_call("weather", place="Ulm"), "Sun."]
    async with FakeLLM(said) as llm:
        model = ChatSemShare(llm=llm).bind_tools([weather])
        history: list[Any] = [HumanMessage("What is the weather in Ulm?")]
        asked = await model.ainvoke(history)
        assert isinstance(asked, AIMessage)
        call = asked.tool_calls[0]
        assert (call["name"], call["args"]) == ("weather", {"place": "Ulm"})
        history += [asked, ToolMessage(weather.invoke(call["args"]), tool_call_id=call["id"])]
        answer = await model.ainvoke(history)
    assert answer.text == "Sun."
    assert llm.calls[1].messages[-1]["content"] == "Sun at Ulm."
    assert answer.usage_metadata is not None
    assert answer.usage_metadata["input_token_details"]["cache_read"] > 10


def test_blocking_calls_need_no_event_loop() -> None:
    with FakeLLM(["Paris.", " is a town"]) as llm:
        assert ChatSemShare(llm=llm).invoke("Capital of France?").text == "Paris."
        assert SemShareCompletion(llm=llm).invoke("Paris") == " is a town"
        assert llm.calls[1].request.raw
    assert llm.loop.is_closed()


def test_code_that_opens_its_adapter_itself_gets_the_fake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hosts, "SemShareLLM", FakeLLM)
    with ChatSemShare(model="my-model") as model:
        answer = model.invoke("Hello")
    assert answer.text == "Hello"
    assert answer.response_metadata["model_name"] == "my-model"


# --- the server


async def test_the_chat_route_answers_in_one_piece_and_in_many() -> None:
    said = ["One river.", tool_call("find", name="Rhine"), ContextLengthError("too long")]
    async with FakeLLM(said) as llm, serving(llm) as url, client(url) as ai:
        whole = await ai.chat.completions.create(model="fake", messages=[{"role": "user", "content": "One?"}])
        stream = await ai.chat.completions.create(
            model="fake",
            messages=[{"role": "user", "content": "One? More?"}],
            tools=[TOOL],
            stream=True,
            stream_options={"include_usage": True},
        )
        events = [event async for event in stream]
        with pytest.raises(openai.BadRequestError, match="too long"):
            await ai.chat.completions.create(model="fake", messages=[{"role": "user", "content": "x"}])
        bad: Any = {"model": "fake", "messages": [{"role": "user", "content": "x"}], "tools": [{"type": "x"}]}
        with pytest.raises(openai.BadRequestError, match="tool 0 is not of the form"):
            await ai.chat.completions.create(**bad)
        async with httpx.AsyncClient(base_url=url) as http:
            metrics = (await http.get("/metrics")).text
            page, turn = await http.get("/"), await http.get("/turn?id=2")
    assert whole.choices[0].message.content == "One river."
    assert whole.usage is not None
    assert whole.usage.completion_tokens == 3
    calls = [c for event in events if event.choices for c in event.choices[0].delta.tool_calls or ()]
    assert calls[0].function is not None
    assert calls[0].function.name == "find"
    arguments = "".join(c.function.arguments or "" for c in calls if c.function)
    assert json.loads(arguments) == {"name": "Rhine"}
    assert events[-2].choices[0].finish_reason == "tool_calls"
    assert events[-1].usage is not None
    assert 'semshare_turns_total{class="cold"} 2.0' in metrics
    assert (page.status_code, turn.status_code) == (200, 200)
    assert "turn?id=2" in page.text


async def test_completions_and_a_client_that_names_another_model() -> None:
    async with FakeLLM(" goes on", model="my-model") as llm, serving(llm, strict=True) as url, client(url) as ai:
        answer = await ai.completions.create(model="my-model", prompt="It")
        assert [model.id for model in (await ai.models.list()).data] == ["my-model"]
        with pytest.raises(openai.NotFoundError):
            await ai.chat.completions.create(model="other", messages=[{"role": "user", "content": "x"}])
        assert (await llm.generate([user("x")])).text == " goes on"
    assert answer.choices[0].text == " goes on"
    assert [call.request.raw for call in llm.calls] == [True, False]
