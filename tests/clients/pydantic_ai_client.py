"""pydantic-ai: chat completions, responses, and the Anthropic API."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

from common import BASE, HELLO, KEY, MODEL, SAID, TRIP, URL, Trip, same, weather
from pydantic_ai import Agent
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.output import NativeOutput
from pydantic_ai.providers.anthropic import AnthropicProvider
from pydantic_ai.providers.openai import OpenAIProvider


def models() -> Iterator[Any]:
    openai = OpenAIProvider(base_url=URL, api_key=KEY)
    yield OpenAIChatModel(MODEL, provider=openai)
    yield OpenAIResponsesModel(MODEL, provider=openai)
    yield AnthropicModel(MODEL, provider=AnthropicProvider(base_url=BASE, api_key=KEY))


async def chat() -> None:
    for model in models():
        got = await Agent(model, instructions="Be brief.").run("Hi")
        same(got.output, HELLO)
        assert got.usage.output_tokens > 0


async def stream() -> None:
    for model in models():
        async with Agent(model).run_stream("Hi") as run:
            same([text async for text in run.stream_text()][-1], HELLO)


async def tools() -> None:
    for model in models():
        got = await Agent(model, tools=[weather]).run("How is it in Rome?")
        same(got.output, SAID)
        again = await Agent(model, tools=[weather]).run("And now?", message_history=got.all_messages())
        same(again.output, SAID)


async def structured() -> None:
    for model in models():
        same((await Agent(model, output_type=Trip).run("a trip")).output, TRIP)
    for model in list(models())[:2]:
        same((await Agent(model, output_type=NativeOutput(Trip)).run("a trip")).output, TRIP)


CHECKS = [lambda f=f: asyncio.run(f()) for f in (chat, stream, tools, structured)]
