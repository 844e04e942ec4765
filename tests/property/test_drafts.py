"""Look-ups for drafts against a search that compares everything."""

from __future__ import annotations

from collections import Counter

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from semshare_agents.drafts import LiveText
from semshare_agents.drafts.past import LEAST_MATCH, PastText
from semshare_agents.drafts.search import DEPTH

TURNS = st.integers(1, 6).flatmap(
    lambda letters: st.tuples(
        st.lists(st.lists(st.integers(0, letters), min_size=0, max_size=90), min_size=1, max_size=5),
        st.lists(st.integers(0, letters), min_size=0, max_size=60),
    )
)


def naive(turns: list[list[int]], context: list[int]) -> tuple[int, set[tuple[int, ...]]]:
    """The longest end of a context that is followed by something, and what follows it where most does."""
    best, ends = 0, []
    for turn in turns:
        for place in range(1, len(turn)):
            length = 0
            while length < min(place, len(context), DEPTH) and turn[place - 1 - length] == context[-1 - length]:
                length += 1
            if length > best:
                best, ends = length, []
            if length == best:
                ends.append(tuple(turn[place : place + 5]))
    counts = Counter(end[0] for end in ends)
    return best, {end for end in ends if counts[end[0]] == max(counts.values())}


@settings(max_examples=300, deadline=None)
@given(TURNS)
def test_past_turns_give_the_longest_end(scene: tuple[list[list[int]], list[int]]) -> None:
    turns, context = scene
    text = PastText()
    for number, turn in enumerate(turns):
        text.add(number + 1, np.asarray(turn, np.int64))
    length, ends = naive(turns, context)
    found = text.longest(np.asarray(context[-DEPTH:], np.int32), 5)
    if length < LEAST_MATCH:
        assert found is None
        return
    assert found is not None
    assert found.length == length
    # A beginning that turns share is kept once: how often it was said is not told then.
    every = {tuple(turn[at : at + 5]) for turn in turns for at in range(len(turn))}
    assert tuple(found.tokens.tolist()) in (ends if max(map(len, turns)) < 64 else every)


@settings(max_examples=300, deadline=None)
@given(TURNS, st.integers(0, 20))
def test_a_conversation_gives_the_longest_end(scene: tuple[list[list[int]], list[int]], answered: int) -> None:
    said = [token for turn in scene[0] for token in turn]
    answered = min(answered, len(said))
    live = LiveText(np.asarray(said[: len(said) - answered], np.int64), answered)
    for token in said[len(said) - answered :]:
        live.append(token)
    length, ends = naive([said], said)
    found = live.longest(5)
    if not length:
        assert found is None
        return
    assert found is not None
    assert found.length == length
    assert tuple(found.tokens.tolist()) in ends
