"""litellm: chat completions, responses, and the Anthropic API."""

from __future__ import annotations

import json
from typing import Any

import litellm
from common import BASE, HELLO, KEY, MODEL, SAID, TRIP, URL, Trip, same, weather

OPENAI: Any = {"model": f"openai/{MODEL}", "api_base": URL, "api_key": KEY}
ANTHROPIC: Any = {"model": f"anthropic/{MODEL}", "api_base": BASE, "api_key": KEY, "max_tokens": 200}
ASK = [{"role": "user", "content": "How is it in Rome?"}]
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = {"type": "function", "function": {"name": "weather", "description": "Weather.", "parameters": SCHEMA}}


def chat() -> None:
    for which in (OPENAI, ANTHROPIC):
        got = litellm.completion(**which, messages=ASK)
        same(got.choices[0].message.content, HELLO)
        assert got.usage.prompt_tokens > 0
    answer = litellm.responses(model=f"openai/{MODEL}", api_base=URL, api_key=KEY, input="Hi")
    same(answer.output[0].content[0].text, HELLO)


def stream() -> None:
    for which in (OPENAI, ANTHROPIC):
        chunks = list(litellm.completion(**which, messages=ASK, stream=True, stream_options={"include_usage": True}))
        same("".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices), HELLO)
        whole = litellm.stream_chunk_builder(chunks)
        assert whole.usage.prompt_tokens > 0


def tools() -> None:
    for which in (OPENAI, ANTHROPIC):
        first = litellm.completion(**which, messages=ASK, tools=[WEATHER], tool_choice="auto")
        message = first.choices[0].message
        (call,) = message.tool_calls
        same(first.choices[0].finish_reason, "tool_calls")
        result = {"role": "tool", "tool_call_id": call.id, "content": weather(**json.loads(call.function.arguments))}
        second = litellm.completion(**which, messages=[*ASK, message.model_dump(), result], tools=[WEATHER])
        same(second.choices[0].message.content, SAID)


def structured() -> None:
    got = litellm.completion(**OPENAI, messages=[{"role": "user", "content": "a trip"}], response_format=Trip)
    same(Trip.model_validate_json(got.choices[0].message.content), TRIP)


CHECKS = [chat, stream, tools, structured]
