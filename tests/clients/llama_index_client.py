"""llama-index: chat completions."""

from __future__ import annotations

import asyncio

from common import HELLO, KEY, MODEL, SAID, TRIP, URL, Trip, same, weather
from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.llms import ChatMessage
from llama_index.core.prompts import PromptTemplate
from llama_index.llms.openai_like import OpenAILike


def model() -> OpenAILike:
    known = {"is_chat_model": True, "is_function_calling_model": True, "context_window": 2048}
    return OpenAILike(model=MODEL, api_base=URL, api_key=KEY, **known)


ASK = [ChatMessage(role="user", content="Hi")]


def chat() -> None:
    same(model().chat(ASK).message.content, HELLO)


def stream() -> None:
    same(list(model().stream_chat(ASK))[-1].message.content, HELLO)


def tools() -> None:
    async def run() -> str:
        return str(await FunctionAgent(tools=[weather], llm=model()).run("How is it in Rome?"))

    same(asyncio.run(run()), SAID)


def structured() -> None:
    same(model().structured_predict(Trip, PromptTemplate("a trip")), TRIP)


CHECKS = [chat, stream, tools, structured]
