"""smolagents: chat completions."""

from __future__ import annotations

from common import HELLO, KEY, MODEL, SAID, URL, same
from smolagents import OpenAIServerModel, ToolCallingAgent, tool


@tool
def weather(city: str) -> str:
    """Weather of a city.

    Args:
        city: The city.
    """
    return f"Rain in {city}."


def model() -> OpenAIServerModel:
    return OpenAIServerModel(model_id=MODEL, api_base=URL, api_key=KEY)


ASK = [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]


def chat() -> None:
    same(model().generate(ASK).content, HELLO)


def stream() -> None:
    same("".join(delta.content or "" for delta in model().generate_stream(ASK)), HELLO)


def tools() -> None:
    agent = ToolCallingAgent(tools=[weather], model=model(), max_steps=3, verbosity_level=0)
    same(agent.run("How is it in Rome?"), SAID)
    streaming = ToolCallingAgent(tools=[weather], model=model(), max_steps=3, verbosity_level=0, stream_outputs=True)
    same(streaming.run("How is it in Rome?"), SAID)


CHECKS = [chat, stream, tools]
