"""Several answers, log probabilities, several prompts and prompts of token ids, asked for by the official client."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import httpx2 as httpx
import pytest
import torch
from semshare_server.shapes import TextShape

from semshare_agents.llm import SemShareLLM
from semshare_agents.values import Generation, TokenLogprob, Usage
from tests import tiny
from tests.serving import MODEL, client

OpenLLM = Callable[..., Awaitable[SemShareLLM]]
CHAT: dict[str, Any] = {"model": MODEL, "messages": [tiny.user(tiny.words(30, seed=1))]}
HOT: dict[str, Any] = {"temperature": 1.4, "seed": 7}


def ids(text: str) -> list[int]:
    return list(tiny.tokenizer().encode(text, add_special_tokens=False))


def stock_logprobs(llm: SemShareLLM, tokens: list[int]) -> torch.Tensor:
    """Log probabilities before each token but the first, `(tokens - 1, vocabulary)`, by the model's own forward."""
    with torch.inference_mode():
        logits: torch.Tensor = llm.pipeline.model.model(torch.tensor([tokens])).logits[0]
    return logits.float().log_softmax(-1)[:-1]


async def test_several_answers_whole_and_streamed(url: str, llm: SemShareLLM) -> None:
    async with client(url) as ai:
        whole = await ai.chat.completions.create(**CHAT, **HOT, n=4)
        stream = await ai.chat.completions.create(
            **CHAT, **HOT, n=4, stream=True, stream_options={"include_usage": True}
        )
        events = [event async for event in stream]
    texts = [choice.message.content or "" for choice in whole.choices]
    assert [choice.index for choice in whole.choices] == [0, 1, 2, 3]
    assert len(set(texts)) > 1
    streamed = ["", "", "", ""]
    for event in events:
        for choice in event.choices:
            streamed[choice.index] += choice.delta.content or ""
    assert streamed == texts
    assert [c.index for e in events for c in e.choices if c.finish_reason] == [0, 1, 2, 3]
    assert [c.index for e in events for c in e.choices if c.delta.role] == [0, 1, 2, 3]
    assert events[-1].usage is not None
    assert whole.usage is not None
    alone = await llm.generate(CHAT["messages"], **HOT, store=False)
    for usage in (whole.usage, events[-1].usage):
        assert usage.prompt_tokens == alone.usage.prompt_tokens
        assert usage.completion_tokens == 24
    assert len(await llm.pipeline.memory.registry.turns()) == 2


async def test_logprobs_of_a_chat(url: str, llm: SemShareLLM) -> None:
    async with client(url) as ai:
        whole = await ai.chat.completions.create(**CHAT, logprobs=True, top_logprobs=2)
        stream = await ai.chat.completions.create(**CHAT, logprobs=True, top_logprobs=2, stream=True)
        parts = [c.logprobs.content or [] async for e in stream for c in e.choices if c.logprobs]
        bare = await ai.chat.completions.create(**CHAT, logprobs=True)
        none = await ai.chat.completions.create(**CHAT)
    assert whole.choices[0].logprobs is not None
    found = whole.choices[0].logprobs.content or []
    assert "".join(each.token for each in found) == whole.choices[0].message.content
    assert bytes(b for each in found for b in each.bytes or []).decode() == whole.choices[0].message.content
    for each in found:
        assert each.top_logprobs[0].token == each.token
        assert each.top_logprobs[0].logprob == each.logprob >= each.top_logprobs[1].logprob
    assert [each.token for part in parts for each in part] == [each.token for each in found]
    assert bare.choices[0].logprobs is not None
    assert all(each.top_logprobs == [] for each in bare.choices[0].logprobs.content or [])
    assert none.choices[0].logprobs is None
    assert llm.pipeline.model.name == MODEL


async def test_several_prompts_of_text_and_of_ids(url: str, llm: SemShareLLM) -> None:
    texts = ["once upon", "a time there"]
    async with client(url) as ai:
        by_text = await ai.completions.create(model=MODEL, prompt=texts, max_tokens=4)
        by_ids = await ai.completions.create(model=MODEL, prompt=[ids(text) for text in texts], max_tokens=4)
        one = await ai.completions.create(model=MODEL, prompt=ids(texts[0]), max_tokens=4)
        many = await ai.completions.create(model=MODEL, prompt=texts, max_tokens=4, n=2, **HOT)
        stream = await ai.completions.create(model=MODEL, prompt=texts, max_tokens=4, stream=True)
        streamed = {0: "", 1: ""}
        async for event in stream:
            streamed[event.choices[0].index] += event.choices[0].text
    alone = [await llm.generate([tiny.user(t)], raw=True, max_new_tokens=4, reuse="off", store=False) for t in texts]
    assert [choice.text for choice in by_text.choices] == [answer.text for answer in alone]
    assert [choice.text for choice in by_ids.choices] == [answer.text for answer in alone]
    assert list(streamed.values()) == [answer.text for answer in alone]
    assert one.choices[0].text == alone[0].text
    assert [choice.index for choice in many.choices] == [0, 1, 2, 3]
    assert by_text.usage is not None
    assert many.usage is not None
    assert by_text.usage.prompt_tokens == many.usage.prompt_tokens == sum(len(ids(text)) for text in texts)
    assert by_text.usage.completion_tokens == 8


@pytest.mark.parametrize("most", [0, 1, 3])
async def test_echo_with_logprobs_as_evaluations_ask_for_it(url: str, llm: SemShareLLM, most: int) -> None:
    texts = ["once upon a time", "x" * 300]
    async with client(url) as ai:
        done = await ai.completions.create(
            model=MODEL, prompt=[ids(text) for text in texts], echo=True, logprobs=1, max_tokens=most, temperature=0
        )
    for text, choice in zip(texts, done.choices, strict=True):
        found, prompt = choice.logprobs, ids(text)
        assert found is not None
        assert found.token_logprobs is not None
        assert found.top_logprobs is not None
        assert found.text_offset is not None
        assert choice.text.startswith(text)
        assert "".join(found.tokens or []) == choice.text
        assert len(found.token_logprobs) == len(prompt) + most
        assert found.token_logprobs[0] is None
        assert found.top_logprobs[0] is None
        expected = stock_logprobs(llm, ids(choice.text))
        own = [float(place[token]) for place, token in zip(expected, ids(choice.text)[1:], strict=True)]
        assert found.token_logprobs[1:] == pytest.approx(own, abs=1e-3)
        for place, top in zip(expected, found.top_logprobs[1:], strict=True):
            assert top is not None
            assert max(top.values()) == pytest.approx(float(place.max()), abs=1e-3)
        for token, at in zip(found.tokens or [], found.text_offset, strict=True):
            assert choice.text[at:].startswith(token)
        if most:
            # What is drawn greedily is what an evaluation takes for it.
            assert max((found.top_logprobs[-1] or {}).values()) == found.token_logprobs[-1]
    assert done.usage is not None
    assert done.usage.completion_tokens == 2 * most
    assert len(await llm.pipeline.memory.registry.turns()) == (2 if most else 0)


def test_what_the_tokenizer_puts_before_a_prompt_has_no_place_in_its_text() -> None:
    def offsets(*tokens: str, text: str) -> list[int]:
        starts = [sum(map(len, tokens[:i])) for i in range(len(tokens))]
        likely = [
            TokenLogprob(1, token, token.encode(), math.nan if not i else -1.0, start)
            for i, (token, start) in enumerate(zip(tokens, starts, strict=True))
        ]
        report: Any = SimpleNamespace(as_dict=dict, tokens={"computed": 0})
        answer = Generation("", (), "length", Usage(1, 1, 0), report, prompt_logprobs=tuple(likely))
        found: list[int] = TextShape("m", [text]).whole(answer)["choices"][0]["logprobs"]["text_offset"]
        return found

    assert offsets("<s>", "once", " upon", text="once upon") == [0, 0, 4]
    assert offsets(" once", " upon", text="once upon") == [0, 4]
    assert offsets("once", " upon", text="once upon") == [0, 4]
    assert offsets("<s>", "once", " upon", text="<s>once upon") == [0, 3, 7]


async def test_echo_without_logprobs_and_streamed(url: str) -> None:
    body = {"model": MODEL, "prompt": "once", "echo": True, "max_tokens": 3}
    async with client(url) as ai:
        whole = await ai.completions.create(**body)
        stream = await ai.completions.create(**body, stream=True)
        streamed = "".join([event.choices[0].text async for event in stream])
    assert whole.choices[0].text == streamed
    assert streamed.startswith("once")
    assert whole.choices[0].logprobs is None
    async with httpx.AsyncClient(base_url=url) as http:
        refused = await http.post("/v1/completions", json={**body, "logprobs": 1, "stream": True})
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "echo")


@pytest.mark.parametrize(
    ("prompt", "told"),
    [
        ([], "prompt"),
        ("", "prompt is empty"),
        ([[]], "prompt.0"),
        ([-1], "prompt"),
        ([10**6], "there is no token 1000000"),
        (["a", 1], "prompt"),
        ({"a": 1}, "prompt: must be text or must be a list"),
    ],
    ids=str,
)
async def test_prompts_that_are_none(url: str, prompt: Any, told: str) -> None:
    async with httpx.AsyncClient(base_url=url) as http:
        answer = await http.post("/v1/completions", json={"model": MODEL, "prompt": prompt})
    assert answer.status_code == 400
    assert told in answer.json()["error"]["message"]


async def test_tokenize_and_back(url: str, llm: SemShareLLM) -> None:
    async with httpx.AsyncClient(base_url=url) as http:

        async def post(path: str, **body: Any) -> dict[str, Any]:
            answer = await http.post(path, json=body)
            assert answer.status_code == 200, answer.text
            found: dict[str, Any] = answer.json()
            return found

        for path in ("/tokenize", "/v1/tokenize"):
            assert await post(path, model=MODEL, prompt="hi é") == {
                "count": 5,
                "max_model_len": tiny.CONTEXT_TOKENS,
                "tokens": ids("hi é"),
                "token_strs": None,
            }
        assert (await post("/tokenize", content="hi", with_pieces=True))["tokens"] == [
            {"id": token, "piece": letter} for token, letter in zip(ids("hi"), "hi", strict=True)
        ]
        assert (await post("/tokenize", prompt="hi", return_token_strs=True))["token_strs"] == ["h", "i"]
        messages = CHAT["messages"]
        done = await llm.generate(messages)
        assert (await post("/tokenize", messages=messages))["count"] == done.usage.prompt_tokens
        for path in ("/detokenize", "/v1/detokenize"):
            assert await post(path, tokens=ids("hi é")) == {"prompt": "hi é", "content": "hi é"}
        assert (await post("/detokenize", tokens=[]))["content"] == ""
        for path, body in (("/tokenize", {}), ("/detokenize", {"tokens": [10**6]}), ("/detokenize", {"tokens": "x"})):
            assert (await http.post(path, json=body)).status_code == 400
