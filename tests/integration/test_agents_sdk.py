"""The OpenAI Agents SDK on the Responses API and on chat completions: tools, streams, structured output, sessions."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from agents import (
    Agent,
    ModelSettings,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    RunConfig,
    Runner,
    SQLiteSession,
    function_tool,
)
from openai import AsyncOpenAI
from pydantic import BaseModel

from semshare_agents.testing import FakeLLM, tool_call
from tests.serving import MODEL, client, serving

OFF = RunConfig(tracing_disabled=True)


class Trip(BaseModel):
    """What is asked for."""

    city: str
    days: int


@function_tool
def weather(city: str) -> str:
    """Weather of a city."""
    return f"Rain in {city}."


def answer(messages: list[dict[str, Any]]) -> Any:
    """Calls the tool, then says what it said."""
    last = messages[-1]
    if last["role"] == "tool":
        return f"It is so: {last['content']}"
    if "trip" in str(last["content"]):
        return '{"city": "Rome", "days": 3}'
    return ["Let me see. ", tool_call("weather", city="Rome")]


@pytest.fixture
async def llm() -> AsyncIterator[FakeLLM]:
    async with FakeLLM(answer, model=MODEL) as fake:
        yield fake


@pytest.fixture
async def ai(llm: FakeLLM) -> AsyncIterator[AsyncOpenAI]:
    async with serving(llm) as url, client(url) as found:
        yield found


@pytest.fixture(params=[OpenAIResponsesModel, OpenAIChatCompletionsModel])
def agent(request: Any, ai: AsyncOpenAI) -> Agent[None]:
    return Agent("guide", instructions="You are brief.", model=request.param(MODEL, ai), tools=[weather])


async def test_a_tool_is_run(agent: Agent[None]) -> None:
    got = await Runner.run(agent, "How is it in Rome?", run_config=OFF)
    assert got.final_output == "It is so: Rain in Rome."
    kinds = [item.type for item in got.new_items]
    assert kinds == ["message_output_item", "tool_call_item", "tool_call_output_item", "message_output_item"]
    usage = got.context_wrapper.usage
    assert usage.requests == 2
    assert usage.input_tokens_details.cached_tokens > 0
    on = await Runner.run(agent, [*got.to_input_list(), {"role": "user", "content": "and now?"}], run_config=OFF)
    assert on.final_output == "It is so: Rain in Rome."


async def test_a_run_is_streamed(agent: Agent[None]) -> None:
    got = Runner.run_streamed(agent, "How is it in Rome?", run_config=OFF)
    deltas = [
        event.data.delta
        async for event in got.stream_events()
        if event.type == "raw_response_event" and event.data.type == "response.output_text.delta"
    ]
    assert got.final_output == "It is so: Rain in Rome."
    assert "".join(deltas) == "Let me see. It is so: Rain in Rome."


async def test_output_is_structured(agent: Agent[None]) -> None:
    planner = agent.clone(output_type=Trip, tools=[], model_settings=ModelSettings(temperature=0.0, max_tokens=100))
    got = await Runner.run(planner, "a trip", run_config=OFF)
    assert got.final_output == Trip(city="Rome", days=3)


async def test_a_session_of_the_sdk_goes_on(agent: Agent[None], llm: FakeLLM) -> None:
    session = SQLiteSession("ana")
    for _ in range(2):
        await Runner.run(agent, "How is it in Rome?", session=session, run_config=OFF)
    session.close()
    assert [message["role"] for message in llm.calls[-1].messages].count("tool") == 2


async def test_the_server_keeps_the_conversation(ai: AsyncOpenAI, llm: FakeLLM) -> None:
    agent = Agent("guide", instructions="Brief.", model=OpenAIResponsesModel(MODEL, ai), tools=[weather])
    first = await Runner.run(agent, "How is it in Rome?", run_config=OFF, auto_previous_response_id=True)
    await Runner.run(agent, "And now?", previous_response_id=first.last_response_id, run_config=OFF)
    said = llm.calls[-1].messages
    roles = [message["role"] for message in said]
    assert roles == ["system", "user", "assistant", "tool", "assistant", "user", "assistant", "tool"]
    assert said[0]["content"] == "Brief."
