"""Drawing tokens, streaming text and stop strings."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from transformers import ByT5Tokenizer

from semshare_agents.errors import ConfigurationError
from semshare_agents.model.generate import Sampler
from semshare_agents.model.text import TextStream
from semshare_agents.values import Sampling
from tests import tiny


def ids(text: str) -> list[int]:
    return list(tiny.tokenizer().encode(text, add_special_tokens=False))


def stream(text: str, *stop: str) -> tuple[list[str], TextStream]:
    out = TextStream(tiny.tokenizer(), stop)
    pieces = []
    for token in ids(text):
        pieces.append(out.push(token))
        if out.stopped:
            break
    else:
        pieces.append(out.finish())
    return pieces, out


def test_without_stop_strings_text_flows_token_by_token() -> None:
    pieces, out = stream("hello you")
    assert pieces == [*"hello you", ""]
    assert out.text == "hello you"
    assert not out.stopped


def test_what_may_become_a_stop_string_is_held_back() -> None:
    pieces, out = stream("ab END, no: ENDE", "ENDE")
    assert out.text == "ab END, no: "
    assert out.stopped
    assert pieces[3:7] == ["", "", "", "END,"]


def test_held_text_is_released_at_the_end() -> None:
    pieces, out = stream("see EN", "END")
    assert pieces[-1] == "EN"
    assert out.text == "see EN"
    assert not out.stopped


@pytest.mark.parametrize(
    ("text", "stop", "left"),
    [
        ("one two three", ("two",), "one "),
        ("aaaab", ("aab",), "aa"),
        ("abcabd", ("abd", "abx"), "abc"),
        ("xyz", ("x",), ""),
        ("first\nsecond", ("\n",), "first"),
        ("long stop", ("p", "stop"), "long "),
        ("nothing", ("else",), "nothing"),
    ],
)
def test_the_earliest_stop_string_ends_the_text(text: str, stop: tuple[str, ...], left: str) -> None:
    pieces, out = stream(text, *stop)
    assert out.text == left
    assert "".join(pieces) == left
    assert out.stopped == (left != text)


def test_letters_of_several_tokens_come_whole() -> None:
    pieces, out = stream("é世🙂")
    assert [p for p in pieces if p] == ["é", "世", "🙂"]
    assert out.text == "é世🙂"


def test_special_tokens_are_no_text() -> None:
    out = TextStream(tiny.tokenizer())
    assert [out.push(t) for t in (2, 3, *ids("a"))] == ["", "", "a"]


def test_broken_bytes_do_not_break_the_stream() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        out = TextStream(tiny.tokenizer())
        tokens = rng.integers(4, 260, 30).tolist()
        pieces = [out.push(t) for t in tokens]
        pieces.append(out.finish())
        assert "".join(pieces) == out.text


def draw(sampling: Sampling, logits: torch.Tensor, count: int = 30) -> list[int]:
    sampler = Sampler(sampling, np.asarray([1, 2]), torch.device("cpu"))
    return [sampler.next(logits) for _ in range(count)]


LOGITS = torch.randn(50, generator=torch.Generator().manual_seed(1))


def test_greedy_takes_the_likeliest() -> None:
    assert set(draw(Sampling(), LOGITS)) == {int(LOGITS.argmax())}


def test_seeds_repeat() -> None:
    hot = Sampling(temperature=1.0, seed=5)
    assert draw(hot, LOGITS) == draw(hot, LOGITS)
    assert draw(hot, LOGITS) != draw(Sampling(temperature=1.0, seed=6), LOGITS)
    assert len(set(draw(hot, LOGITS))) > 5


def test_unseeded_draws_differ() -> None:
    hot = Sampling(temperature=1.0)
    assert draw(hot, torch.zeros(50)) != draw(hot, torch.zeros(50))


def test_top_k_and_top_p_leave_few() -> None:
    best = set(LOGITS.topk(3).indices.tolist())
    assert set(draw(Sampling(temperature=2.0, top_k=3, seed=1), LOGITS, 200)) == best
    narrow = LOGITS.clone()
    narrow[7] = 30.0
    assert set(draw(Sampling(temperature=1.0, top_p=0.5, seed=1), narrow)) == {7}


def test_temperature_flattens() -> None:
    cool, hot = (len(set(draw(Sampling(temperature=t, seed=1), LOGITS, 300))) for t in (0.1, 5.0))
    assert cool < hot


def test_repetition_is_penalised_in_prompt_and_answer() -> None:
    logits = torch.zeros(50)
    logits[2], logits[9], logits[8] = 1.2, 1.1, 1.0
    sampler = Sampler(Sampling(repetition_penalty=2.0), np.asarray([1, 2]), torch.device("cpu"))
    assert [sampler.next(logits) for _ in range(2)] == [9, 8]


def test_frequency_counts_in_the_answer_alone() -> None:
    logits = torch.zeros(50)
    logits[2], logits[9], logits[8] = 1.2, 1.0, 0.6
    sampler = Sampler(Sampling(frequency_penalty=0.5), np.asarray([2, 2, 9]), torch.device("cpu"))
    assert [sampler.next(logits) for _ in range(5)] == [2, 9, 2, 8, 9]


def test_presence_counts_once_in_the_answer_alone() -> None:
    logits = torch.zeros(50)
    logits[2], logits[9], logits[8] = 1.2, 1.0, 0.6
    sampler = Sampler(Sampling(presence_penalty=0.5), np.asarray([2, 2, 9]), torch.device("cpu"))
    assert [sampler.next(logits) for _ in range(5)] == [2, 9, 2, 2, 2]


def test_biases_are_added_to_logits() -> None:
    logits = torch.zeros(50)
    logits[2], logits[9] = 1.2, 1.0
    sampler = Sampler(Sampling(logit_bias=((9, 0.5), (70, 9.0))), np.asarray([1]), torch.device("cpu"))
    assert sampler.next(logits) == 9
    assert sampler.lead(logits) == pytest.approx(0.3)
    assert logits[9] == 1.0


def test_min_p_leaves_what_is_likely_beside_the_likeliest() -> None:
    near = set((LOGITS.softmax(-1) >= 0.4 * LOGITS.softmax(-1).max()).nonzero()[:, 0].tolist())
    assert set(draw(Sampling(temperature=1.0, min_p=0.4, seed=1), LOGITS, 300)) == near


def test_a_lead_is_what_greedy_decoding_compares() -> None:
    logits = torch.zeros(50)
    logits[2], logits[9], logits[8] = 1.2, 1.0, 0.5

    def lead(**sampling: float) -> float:
        return Sampler(Sampling(**sampling), np.asarray([1, 2]), torch.device("cpu")).lead(logits)  # type: ignore[arg-type]

    assert lead() == pytest.approx(0.2)
    assert lead(repetition_penalty=2.0) == pytest.approx(0.4), "9 leads 2, which is halved"
    assert lead(temperature=1.0) == math.inf
    sampler = Sampler(Sampling(frequency_penalty=0.5), np.asarray([1, 2]), torch.device("cpu"))
    assert [sampler.next(logits), sampler.next(logits)] == [2, 9]
    assert sampler.lead(logits) == pytest.approx(0.2), "both are half a logit less likely"
    only = Sampler(Sampling(), np.asarray([1, 2]), torch.device("cpu"), Only(8))
    assert only.lead(logits) == math.inf
    assert only.next(logits) == 8


class Only:
    """A constraint that allows one token."""

    def __init__(self, token: int):
        self._token = token
        self.complete = False

    def narrow(self, logits: torch.Tensor) -> torch.Tensor:
        """See `Constraint.narrow`."""
        return logits.masked_fill(torch.arange(len(logits)) != self._token, -torch.inf)

    def accept(self, token: int) -> None:
        """See `Constraint.accept`."""


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_new_tokens": 0},
        {"temperature": -0.1},
        {"top_k": -1},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"repetition_penalty": 0.0},
        {"frequency_penalty": 2.1},
        {"presence_penalty": -2.1},
        {"min_p": 1.1},
        {"logit_bias": ((-1, 2.0),)},
        {"logit_bias": ((1, math.nan),)},
        {"stop": ("",)},
        {"stop": (3,)},
    ],
)
def test_wrong_parameters_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(wrong))):
        Sampling(**wrong)


def test_a_tokenizer_without_a_fast_backend_streams_by_its_own_decode() -> None:
    slow = ByT5Tokenizer()
    text = "hé 世 🙂 stop here"
    tokens = slow.encode(text, add_special_tokens=False)
    out = TextStream(slow, ["stop"])
    pieces = [out.push(token) for token in tokens[: len(tokens) - len(" here")]]
    assert [p for p in pieces if p] == ["h", "é", " ", "世", " ", "🙂", " "]
    assert out.stopped
    assert out.text == "hé 世 🙂 "


def test_words_of_a_slow_tokenizer_keep_their_spaces() -> None:
    class Worded:
        """Joins tokens by spaces, as tokenizers of whole words do."""

        def decode(self, tokens: list[int], skip_special_tokens: bool) -> str:
            assert skip_special_tokens
            return " ".join(f"w{token}" for token in tokens if token)

    out = TextStream(Worded())
    assert [out.push(token) for token in (3, 0, 4, 5)] == ["w3", "", " w4", " w5"]
    assert out.text == "w3 w4 w5"
