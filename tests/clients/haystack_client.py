"""haystack: chat completions and responses."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from common import HELLO, KEY, MODEL, SAID, TRIP, URL, Trip, same, weather
from haystack.components.agents import Agent
from haystack.components.generators.chat import OpenAIChatGenerator, OpenAIResponsesChatGenerator
from haystack.dataclasses import ChatMessage
from haystack.tools import create_tool_from_function
from haystack.utils import Secret


def generators(**more: Any) -> Iterator[Any]:
    for kind in (OpenAIChatGenerator, OpenAIResponsesChatGenerator):
        yield kind(model=MODEL, api_base_url=URL, api_key=Secret.from_token(KEY), **more)


def chat() -> None:
    for generator in generators():
        same(generator.run([ChatMessage.from_user("Hi")])["replies"][0].text, HELLO)


def stream() -> None:
    texts: list[str] = []
    for generator in generators(streaming_callback=lambda chunk: texts.append(chunk.content)):
        texts.clear()
        same(generator.run([ChatMessage.from_user("Hi")])["replies"][0].text, HELLO)
        same("".join(texts), HELLO)


def tools() -> None:
    for generator in generators():
        agent = Agent(chat_generator=generator, tools=[create_tool_from_function(weather)])
        same(agent.run([ChatMessage.from_user("How is it in Rome?")])["last_message"].text, SAID)


def structured() -> None:
    chat, responses = generators()
    for generator, word in ((chat, "response_format"), (responses, "text_format")):
        got = generator.run([ChatMessage.from_user("a trip")], generation_kwargs={word: Trip})
        same(Trip.model_validate_json(got["replies"][0].text), TRIP)


CHECKS = [chat, stream, tools, structured]
