"""Several answers from one prefill, how likely tokens are, and prompts made of token ids, against the stock model."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import torch

from semshare_agents.errors import ConfigurationError, InvalidMessagesError
from semshare_agents.llm import SemShareLLM
from semshare_agents.request.output import FREE
from semshare_agents.values import Generation, Piece, Sampling
from tests import tiny

OpenLLM = Callable[..., Awaitable[SemShareLLM]]
ASK = [tiny.user(tiny.words(30, seed=1))]
HOT: dict[str, Any] = {"temperature": 1.5, "seed": 3, "max_new_tokens": 12}


async def pieces_of(llm: SemShareLLM, messages: Any = ASK, **options: Any) -> list[Piece]:
    return [piece async for piece in llm.stream(messages, **options)]


def answers(pieces: list[Piece]) -> list[Generation]:
    return [piece.generation for piece in pieces if piece.generation is not None]


def stock_logprobs(llm: SemShareLLM, tokens: list[int]) -> torch.Tensor:
    """Log probabilities after each token, `(tokens, vocabulary)`, by the model's own forward."""
    with torch.inference_mode():
        logits: torch.Tensor = llm.pipeline.model.model(torch.tensor([tokens])).logits[0]
    return logits.float().log_softmax(-1)


def prompt_tokens(llm: SemShareLLM) -> list[int]:
    return [int(i) for i in llm.reader.output.prompt(ASK, FREE)]


@pytest.mark.parametrize("store", [True, False])
async def test_several_answers_are_what_single_ones_would_be(open_llm: OpenLLM, store: bool) -> None:
    llm = await open_llm()
    several = answers(await pieces_of(llm, **HOT, n=4, store=store))
    assert [answer.choice for answer in several] == [0, 1, 2, 3]
    for choice, answer in enumerate(several):
        alone = await llm.generate(ASK, **{**HOT, "seed": 3 + choice}, reuse="off", store=False)
        assert answer.tokens == alone.tokens
    assert len({answer.tokens for answer in several}) > 1
    assert (several[0].report.turn_id is not None) == store
    assert all(answer.report.turn_id is None for answer in several[1:])
    assert len(await llm.pipeline.memory.registry.turns()) == store


@pytest.mark.parametrize("family", ["llama", "mistral-window", "mamba", "t5"])
async def test_several_answers_of_any_model(open_llm: OpenLLM, family: str) -> None:
    llm = await open_llm(family)
    several = answers(await pieces_of(llm, n=2, max_new_tokens=5))
    alone = await llm.generate(ASK, reuse="off", store=False, max_new_tokens=5)
    assert [answer.tokens for answer in several] == [alone.tokens] * 2


async def test_pieces_say_whose_they_are(open_llm: OpenLLM) -> None:
    llm = await open_llm()
    found = await pieces_of(llm, **HOT, n=2, logprobs=1)
    for choice in (0, 1):
        mine = [piece for piece in found if piece.choice == choice]
        last = mine[-1].generation
        assert last is not None
        assert "".join(piece.text for piece in mine) == last.text
        assert tuple(likely for piece in mine for likely in piece.logprobs) == last.logprobs
    with pytest.raises(ConfigurationError, match="stream"):
        await llm.generate(ASK, n=2)


async def test_a_session_goes_on_from_the_first_answer(open_llm: OpenLLM) -> None:
    llm = await open_llm()
    session = llm.session("s")
    found = answers([piece async for piece in session.stream("hello", n=3, **HOT)])
    assert (await session.messages())[-1]["content"] == found[0].text
    assert len(await session.messages()) == 2


@pytest.mark.parametrize("sampling", [{}, {"temperature": 1.2, "seed": 1}, {"frequency_penalty": 1.5}])
async def test_answers_say_how_likely_their_tokens_were(open_llm: OpenLLM, sampling: dict[str, Any]) -> None:
    llm = await open_llm()
    done = await llm.generate(ASK, max_new_tokens=8, logprobs=3, reuse="off", **sampling)
    tokens = prompt_tokens(llm)
    expected = stock_logprobs(llm, [*tokens, *done.tokens])[len(tokens) - 1 :]
    assert [likely.token for likely in done.logprobs] == list(done.tokens)
    special = llm.pipeline.model.tokenizer.all_special_ids
    assert "".join(likely.text for likely in done.logprobs if likely.token not in special) == done.text
    for place, likely in zip(expected, done.logprobs, strict=False):
        assert likely.logprob == pytest.approx(float(place[likely.token]), abs=1e-4)
        values, ids = place.topk(3)
        assert [other.token for other in likely.top] == ids.tolist()
        assert [other.logprob for other in likely.top] == pytest.approx(values.tolist(), abs=1e-4)
        broken = "\N{REPLACEMENT CHARACTER}" in done.text
        assert broken or likely.token in special or done.text[likely.start :].startswith(likely.text)


async def test_what_a_stop_string_cut_off_has_no_likelihood(open_llm: OpenLLM) -> None:
    llm = await open_llm()
    whole = await llm.generate(ASK, max_new_tokens=8)
    assert whole.logprobs == ()
    found = await pieces_of(llm, max_new_tokens=8, logprobs=0, stop=[whole.text[3:5]])
    done = answers(found)[0]
    assert "".join(likely.text for likely in done.logprobs) == done.text == whole.text[:3]
    assert tuple(likely for piece in found for likely in piece.logprobs) == done.logprobs
    assert all(likely.top == () for likely in done.logprobs)


@pytest.mark.parametrize("family", ["llama", "mamba"])
async def test_prompts_say_how_likely_their_tokens_were(open_llm: OpenLLM, family: str) -> None:
    llm = await open_llm(family)
    text = tiny.words(60, seed=4)
    for _ in range(2):  # the second time all of it is stored
        done = await llm.generate([tiny.user(text)], raw=True, prompt_logprobs=2, max_new_tokens=1)
    found = done.prompt_logprobs
    tokens = llm.pipeline.model.tokenizer.encode(text)
    expected = stock_logprobs(llm, tokens)
    assert [likely.token for likely in found] == tokens
    assert math.isnan(found[0].logprob)
    assert [likely.logprob for likely in found[1:]] == pytest.approx(
        [float(place[token]) for place, token in zip(expected, tokens[1:], strict=False)], abs=1e-3
    )
    assert all(text[likely.start :].startswith(likely.text) for likely in found)
    assert done.usage.cached_tokens == 0
    after = await llm.generate([tiny.user(text)], raw=True, max_new_tokens=4)
    cold = await llm.generate([tiny.user(text)], raw=True, max_new_tokens=4, reuse="off", store=False)
    assert after.tokens == cold.tokens
    assert (after.usage.cached_tokens > 100) == (family == "llama")


async def test_a_prompt_may_be_token_ids(open_llm: OpenLLM) -> None:
    llm = await open_llm()
    ids = llm.pipeline.model.tokenizer.encode("once upon a time")
    by_text = await llm.generate([tiny.user("once upon a time")], raw=True)
    by_ids = await llm.generate([tiny.user("once upon a time")], raw=True, prompt_ids=ids)
    assert by_ids.tokens == by_text.tokens
    for wrong, error in (([], ConfigurationError), (["x"], ConfigurationError), ([10**6], InvalidMessagesError)):
        with pytest.raises(error, match="token id"):
            await llm.generate([tiny.user("x")], raw=True, prompt_ids=wrong)
    with pytest.raises(ConfigurationError, match="raw"):
        await llm.generate([tiny.user("x")], prompt_ids=[1])


async def test_an_answer_may_have_all_the_room_there_is(open_llm: OpenLLM) -> None:
    llm = await open_llm()
    room = Sampling(max_new_tokens=None)
    done = await llm.generate(ASK, sampling=room)
    assert done.usage.total_tokens == tiny.CONTEXT_TOKENS
    assert done.finish_reason == "length"
    told = await llm.generate(ASK, max_new_tokens=tiny.CONTEXT_TOKENS, reuse="off", store=False)
    assert done.tokens == told.tokens, "the buffer grew on the way"
    again = await llm.generate(ASK, sampling=room)
    assert again.tokens == done.tokens
    assert again.usage.cached_tokens > 100


def test_a_window_that_a_usual_answer_fits_into_ends_it() -> None:
    from semshare_agents.model.tokenise import check_length

    assert check_length(1000, None, 8000) == 7000
    assert check_length(1000, None, 8000, reuse_tokens=4000) == 3000
    assert check_length(3900, None, 8000, reuse_tokens=4000) == 4100
    assert check_length(1000, 5000, 8000, reuse_tokens=4000) == 5000
