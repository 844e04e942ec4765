"""langchain-openai: chat completions and responses."""

from __future__ import annotations

from collections.abc import Iterator

from common import HELLO, KEY, MODEL, SAID, TRIP, URL, Trip, same, weather
from langchain_core.messages import AIMessageChunk, HumanMessage, ToolMessage
from langchain_openai import ChatOpenAI


def models() -> Iterator[ChatOpenAI]:
    for responses in (False, True):
        yield ChatOpenAI(model=MODEL, base_url=URL, api_key=KEY, use_responses_api=responses, stream_usage=True)


def chat() -> None:
    for model in models():
        got = model.invoke("Hi")
        same(got.text, HELLO)
        assert got.usage_metadata["input_tokens"] > 0


def stream() -> None:
    for model in models():
        chunks = list(model.stream("Hi"))
        whole = chunks[0]
        for chunk in chunks[1:]:
            whole += chunk
        assert isinstance(whole, AIMessageChunk)
        same(whole.text, HELLO)
        assert whole.usage_metadata["input_tokens"] > 0


def tools() -> None:
    for model in models():
        bound = model.bind_tools([weather])
        history = [HumanMessage("How is it in Rome?")]
        called = bound.invoke(history)
        (call,) = called.tool_calls
        history += [called, ToolMessage(weather(**call["args"]), tool_call_id=call["id"])]
        same(bound.invoke(history).text, SAID)


def structured() -> None:
    for model in models():
        for method in ("json_schema", "function_calling"):
            same(model.with_structured_output(Trip, method=method).invoke("a trip"), TRIP)


CHECKS = [chat, stream, tools, structured]
