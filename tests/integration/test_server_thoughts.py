"""What a model thinks, on the routes that have a form for it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import anthropic
import pytest

from semshare_agents.testing import FakeLLM
from semshare_agents.values import Piece
from tests.serving import MODEL, client, serving


class Thinker(FakeLLM):
    """Thinks before it speaks."""

    async def _answered(self, messages: Any, options: Any) -> Any:
        assert options["split_thoughts"]
        for word in ("hm, ", "well"):
            yield Piece("", thoughts=word)
        async for piece in super()._answered(messages, options):
            whole = piece.generation
            yield piece if whole is None else replace(piece, generation=replace(whole, thoughts="hm, well"))


@pytest.fixture
async def llm() -> AsyncIterator[FakeLLM]:
    async with Thinker("Yes it is.", model=MODEL) as fake:
        yield fake


async def test_thoughts_are_an_item_of_a_response_and_come_back(llm: FakeLLM) -> None:
    async with serving(llm) as url, client(url) as ai:
        whole = await ai.responses.create(model=MODEL, input="x", reasoning={"effort": "low", "summary": "auto"})
        events: list[Any] = [e async for e in await ai.responses.create(model=MODEL, input="x", stream=True)]
        echoed: Any = [{"role": "user", "content": "x"}, *[item.model_dump() for item in whole.output]]
        await ai.responses.create(model=MODEL, input=[*echoed, {"role": "user", "content": "on"}])
    last = events[-1].response
    for response in (whole, last):
        thought, said = response.output
        assert (thought.type, said.type) == ("reasoning", "message")
        assert thought.content[0].text == "hm, well"
        assert response.output_text == "Yes it is."
    assert "".join(e.delta for e in events if e.type == "response.reasoning_text.delta") == "hm, well"
    kinds = list(dict.fromkeys(event.type for event in events))
    assert kinds.index("response.reasoning_text.done") < kinds.index("response.output_text.delta")
    assert llm.calls[0].options["reasoning_effort"] == "low"
    assert llm.calls[-1].options["reasoning_effort"] is None
    assert llm.calls[-1].messages[1]["reasoning_content"] == "hm, well"


async def test_thoughts_are_a_block_of_a_message(llm: FakeLLM) -> None:
    ask: Any = {"model": MODEL, "max_tokens": 50, "messages": [{"role": "user", "content": "x"}]}
    async with (
        serving(llm) as url,
        anthropic.AsyncAnthropic(base_url=url, api_key="none", max_retries=0) as ai,
    ):
        whole = await ai.messages.create(**ask)
        async with ai.messages.stream(**ask, thinking={"type": "disabled"}) as stream:
            streamed = await stream.get_final_message()
    for message in (whole, streamed):
        thought, said = message.content
        assert (thought.type, said.type) == ("thinking", "text")
        assert thought.thinking == "hm, well"
    assert [call.options["reasoning_effort"] for call in llm.calls] == [None, "none"]
