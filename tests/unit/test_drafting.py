"""What drafts come from, how long they are, and what steps with them cost."""

from __future__ import annotations

import asyncio
import time

import numpy as np
import pytest

from semshare_agents.drafts import Drafts, LiveText
from semshare_agents.drafts.length import Acceptance, draft_length
from semshare_agents.drafts.past import BLOCK_TOKENS, KEPT_SHARE, LEAST_MATCH, PastText
from semshare_agents.drafts.price import KEPT_STEPS, PROBE_STEPS, StepPrice
from semshare_agents.drafts.search import DEPTH
from semshare_agents.errors import RegistryUnavailableError
from semshare_agents.values import Ints, Scope
from tests import tiny

ABC = np.asarray([10, 11, 12, 13, 14, 15, 16, 17])


def drawn(count: int, seed: int, letters: int = 30_000) -> Ints:
    return np.random.default_rng(seed).integers(0, letters, count)


def found(text: PastText, tokens: Ints, most: int = 4) -> list[int]:
    match = text.longest(tokens.astype(np.int32), most)
    return [] if match is None else match.tokens.tolist()


# --- texts


def test_what_followed_the_longest_equal_end_is_drafted() -> None:
    live = LiveText(np.asarray([1, 2, 3, 4, 9, 2, 3, 5, 8, 1]), 10)
    assert live.longest(2) is not None
    for token in (2, 3):
        live.append(token)
    match = live.longest(3)
    assert match is not None
    assert (match.length, match.tokens.tolist()) == (3, [4, 9, 2])


def test_of_equally_long_ends_the_frequent_one_counts_then_the_newest() -> None:
    ends = [[7, 1], [7, 2], [7, 1], [7, 3], [7]]
    match = LiveText(np.concatenate([[5, 6, *end] for end in ends]), 0).longest(1)
    assert match is not None
    assert (match.length, match.tokens.tolist()) == (3, [1])
    match = LiveText(np.concatenate([[5, 6, *end] for end in ends[1:]]), 0).longest(1)
    assert match is not None
    assert match.tokens.tolist() == [3]


@pytest.mark.parametrize("prompt", [[], [1], [1, 2, 3]])
def test_what_was_never_said_is_not_drafted(prompt: list[int]) -> None:
    assert LiveText(np.asarray(prompt, np.int64), 4).longest(4) is None


def test_past_turns_are_apart_and_need_some_tokens() -> None:
    text = PastText()
    text.add(1, ABC)
    text.add(2, ABC + 100)
    assert found(text, ABC[:LEAST_MATCH]) == ABC[LEAST_MATCH : LEAST_MATCH + 4].tolist()
    assert found(text, ABC[: LEAST_MATCH - 1]) == []
    assert found(text, ABC) == [], "nothing follows the end of a turn, the next turn least of all"
    assert found(text, ABC[2:5], most=10) == ABC[5:].tolist()


def test_what_turns_share_is_kept_once() -> None:
    text, shared = PastText(), drawn(10 * BLOCK_TOKENS, 0)
    text.add(1, shared)
    before = len(text)
    longer = np.concatenate([shared, ABC])
    text.add(2, longer)
    assert len(text) <= before + DEPTH + len(ABC) + 1
    match = text.longest(longer[-DEPTH - 4 : -4].astype(np.int32), 4)
    assert match is not None
    assert (match.length, match.tokens.tolist()) == (DEPTH, ABC[-4:].tolist())


def test_a_turn_counts_once() -> None:
    text = PastText()
    for _ in range(3):
        text.add(4, ABC)
    text.add(3, ABC + 50)
    assert len(text) == len(ABC) + 1
    assert text.newest == 4


@pytest.mark.parametrize("turns", [7, 60])
def test_the_oldest_turns_go_first(turns: int) -> None:
    most = 2000
    text = PastText(most)
    for turn in range(1, turns + 1):
        text.add(turn, drawn(300, turn))
        assert len(text) <= most
        assert text.nbytes <= 8 * (most + DEPTH) + 1024
        assert found(text, drawn(300, turn)[:20]) == drawn(300, turn)[20:24].tolist()
    assert len(text) >= KEPT_SHARE * most - 300
    assert found(text, drawn(300, 1)[:20]) == []
    text.add(turns + 1, drawn(3 * most, 99))
    assert len(text) <= most
    assert found(text, drawn(3 * most, 99)[-20:-4]) == drawn(3 * most, 99)[-4:].tolist()


def test_what_is_forgotten_is_gone_and_stays_so() -> None:
    text = PastText()
    text.add(1, ABC)
    text.forget()
    text.add(2, ABC)
    assert found(text, ABC[:4]) == []
    assert len(text) == 0


@pytest.mark.alone
def test_a_look_up_among_very_many_tokens_takes_less_than_a_millisecond() -> None:
    text = PastText()
    for turn in range(1, 40):
        text.add(turn, np.random.default_rng(turn).zipf(1.3, 5000) % 40_000)
    assert len(text) > 150_000
    context = text._view.text[-2 * DEPTH : -DEPTH].copy()
    took = []
    for _ in range(50):
        start = time.perf_counter()
        text.longest(context, 31)
        took.append(time.perf_counter() - start)
    assert np.median(took) < 1e-3


# --- all tenants'


class Books:
    """Turns by scope, as the registry reads them."""

    def __init__(self) -> None:
        self.turns: dict[int, list[tuple[int, Ints]]] = {}
        self.fails = False
        self.gate = asyncio.Event()
        self.gate.set()

    async def newer_tokens(self, scope: Scope, after: int, most_tokens: int) -> list[tuple[int, Ints]]:
        if self.fails:
            raise RegistryUnavailableError("gone")
        found = [(i, tokens) for i, tokens in self.turns.get(scope.id, ()) if i > after]
        await self.gate.wait()
        return found


def scope(number: int, tenant: str = "t", forgets: int = 0) -> Scope:
    return Scope(number, tenant, "f", b"", (), forgets)


async def test_texts_are_read_when_needed_and_go_on() -> None:
    books = Books()
    books.turns = {1: [(1, ABC)], 2: [(2, ABC + 100)]}
    drafts = Drafts(books, StepPrice(None))
    text = drafts.past(scope(1))
    assert found(text, ABC[:4]) == []
    await drafts.settle()
    assert found(text, ABC[:4]) == ABC[4:].tolist()
    assert found(text, ABC[:4] + 100) == [], "of another scope"
    books.turns[1].append((3, ABC + 200))
    assert drafts.past(scope(1)) is text
    await drafts.settle()
    assert found(text, ABC[:4] + 200) == (ABC[4:] + 200).tolist()
    assert drafts.past(scope(0, "new")) is not text
    await drafts.aclose()
    assert found(text, ABC[:4]) == []


async def test_what_is_forgotten_goes_at_once_also_what_is_being_read() -> None:
    books = Books()
    books.turns = {1: [(1, ABC)]}
    drafts = Drafts(books, StepPrice(None))
    books.gate.clear()
    text = drafts.past(scope(1))
    await asyncio.sleep(0)
    drafts.forget("t")
    books.gate.set()
    await drafts.settle()
    assert found(text, ABC[:4]) == []
    books.turns = {1: [(2, ABC + 100)]}
    again = drafts.past(scope(1))
    await drafts.settle()
    assert found(again, ABC[:4] + 100) == (ABC[4:] + 100).tolist()


async def test_what_another_process_forgot_goes_with_the_next_turn_of_anybody() -> None:
    books = Books()
    books.turns = {1: [(1, ABC)], 2: [(2, ABC)]}
    drafts = Drafts(books, StepPrice(None))
    text = drafts.past(scope(1, "a", forgets=3))
    await drafts.settle()
    drafts.past(scope(2, "b", forgets=3))
    assert found(text, ABC[:4])
    drafts.past(scope(2, "b", forgets=4))
    assert found(text, ABC[:4]) == []
    await drafts.settle()


async def test_all_texts_are_bounded_together() -> None:
    books = Books()
    books.turns = {i: [(i, drawn(2000, i))] for i in range(1, 6)}
    drafts = Drafts(books, StepPrice(None), most_bytes=100_000)
    texts = []
    for i in range(1, 6):
        texts.append(drafts.past(scope(i, f"t{i}")))
        await drafts.settle()
    assert sum(text.nbytes for text in texts if not text.forgotten) <= 100_000
    assert texts[0].forgotten
    assert not texts[-1].forgotten
    assert drafts.past(scope(1, "t1")) is not texts[0]
    await drafts.settle()


async def test_a_memory_that_fails_leaves_no_drafts_and_no_error() -> None:
    books = Books()
    books.fails = True
    drafts = Drafts(books, StepPrice(None))
    text = drafts.past(scope(1))
    await drafts.settle()
    assert len(text) == 0


# --- how long


def flat(_: int) -> float:
    return 1.0


def linear(drafted: int) -> float:
    return 1.0 + drafted


def test_acceptance_follows_what_is_seen() -> None:
    acceptance = Acceptance()
    before = acceptance.of(4)
    for _ in range(30):
        acceptance.saw(4, True)
        acceptance.saw(20, False)
    assert acceptance.of(4) > 0.95 > before
    assert acceptance.of(20) < 0.1
    assert acceptance.of(1) == Acceptance().of(1)


def test_rows_that_cost_nothing_are_all_used_and_dear_ones_never() -> None:
    acceptance = Acceptance()
    assert draft_length(8, 31, acceptance, flat) == 31
    assert draft_length(32, 31, acceptance, linear) == 0
    assert draft_length(8, 0, acceptance, flat) == 0


def test_where_drafts_are_never_right_none_are_made() -> None:
    acceptance = Acceptance()
    for _ in range(60):
        for match in (1, 2, 4, 8, 16, 32):
            acceptance.saw(match, False)
    assert draft_length(32, 31, acceptance, flat) == 0


def test_length_weighs_acceptance_against_price() -> None:
    acceptance = Acceptance()
    for _ in range(60):
        acceptance.saw(32, True)
        acceptance.saw(32, True)
        acceptance.saw(4, True)
        acceptance.saw(4, False)

    def dearer(drafted: int) -> float:
        return 1.0 + 0.1 * drafted

    assert 0 < draft_length(3, 31, acceptance, dearer) < draft_length(32, 31, acceptance, dearer) == 31


PRICES = {
    "two rows dear": (44, 101, 78, 86, 103, 131),
    "few rows cheap": (41, 34, 31, 33, 64, 75),
    "like one": (40, 42, 44, 48, 64, 80),
}
"""Milliseconds of a step of 1, 2, 4, 8, 16 and 32 rows, as kernels of different kinds give them."""


@pytest.mark.parametrize("price", list(PRICES))
@pytest.mark.parametrize("repeats", [False, True])
def test_free_text_loses_next_to_nothing_and_repeated_text_gains(price: str, repeats: bool) -> None:
    """What decoding takes by these prices, over what it takes without drafts."""
    rng = np.random.default_rng(0)
    told = rng.zipf(1.5, 400) % 500
    prompt = np.concatenate([told[:250], rng.zipf(1.5, 400) % 500]) if repeats else rng.zipf(1.5, 650) % 500
    answer, live, acceptance = told[:250], LiveText(prompt, 260), Acceptance()
    live.append(int(answer[0]))
    at, spent = 1, 0.0

    def seconds(drafted: int) -> float:
        return float(PRICES[price][drafted.bit_length()])

    while at < len(answer):
        match = live.longest(31)
        known = 0 if match is None else match.length
        drafts = [] if match is None else match.tokens.tolist()
        length = draft_length(known, min(len(drafts), len(answer) - at), acceptance, seconds)
        spent += seconds(length)
        for i in range(length + 1):
            right = i < len(drafts) and drafts[i] == answer[at]
            if i < len(drafts):
                acceptance.saw(known + i, right)
            live.append(int(answer[at]))
            at += 1
            if not right or i == length or at == len(answer):
                break
    gain = PRICES[price][0] * (len(answer) - 1) / spent
    assert gain > 5 if repeats else gain > 0.98


# --- what steps cost


def test_a_price_is_what_was_seen() -> None:
    price = StepPrice(tiny.cost())
    for seconds in (0.04, 0.05, 0.06, 9.0, 0.05):
        price.saw(1, 100, seconds)
        price.saw(8, 100, 2 * seconds)
    assert price.seconds(1, 100) == pytest.approx(0.05)
    assert price.seconds(5, 100) == price.seconds(8, 100) == price.after(100)(6) == pytest.approx(0.1)


def test_what_was_not_tried_seems_worth_a_try() -> None:
    price = StepPrice(tiny.cost())
    for _ in range(5):
        price.saw(1, 100, 0.05)
    assert 0.05 <= price.seconds(2, 100) <= price.seconds(16, 100) < 16 * 0.05
    price.saw(4, 100, 0.2)
    assert price.seconds(8, 100) >= 0.2


def test_without_a_cost_model_rows_are_learned_all_the_same() -> None:
    price = StepPrice(None)
    assert price.seconds(1, 10) == price.seconds(32, 10) == 1.0
    price.saw(1, 10, 0.05)
    price.saw(2, 10, 0.5)
    assert price.seconds(2, 10) == 10 * price.seconds(1, 10)


def test_what_was_not_seen_for_long_is_in_question() -> None:
    price = StepPrice(None)
    price.saw(8, 10, 5.0)
    for _ in range(PROBE_STEPS):
        assert not price.doubtful(8)
        price.saw(1, 10, 1.0)
    assert price.doubtful(8)
    assert not price.doubtful(1)
    assert price.seconds(8, 10) < 2.0
    for _ in range(KEPT_STEPS // 2):
        price.saw(8, 10, 1.1)
    assert price.seconds(8, 10) == pytest.approx(1.1)
