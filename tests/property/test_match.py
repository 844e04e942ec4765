"""Spans and names on generated texts."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from semshare_agents.match import hashes
from semshare_agents.match.spans import find_spans
from semshare_agents.values import BlockRef, Donor, Hit, Scope

BLOCK = 8
SCOPES = [Scope(i, f"t{i}", "f" * 64, bytes([i] * 32)) for i in range(3)]


def donor(turn_id: int, tokens: np.ndarray, holes: set[int]) -> Donor:
    refs = [
        BlockRef(f"{turn_id}-{at}", at, min(BLOCK, len(tokens) - at), min(BLOCK, len(tokens) - at))
        for at in range(0, len(tokens), BLOCK)
        if at // BLOCK not in holes
    ]
    return Donor(turn_id, tokens, tuple(refs), len(tokens))


def block_hits(prompt: np.ndarray, begin: int, donors: list[Donor]) -> list[Hit]:
    """Every meeting of a prompt window with a stored full block, by comparing tokens."""
    return [
        Hit(at, d.turn_id, b.start)
        for d in donors
        for b in d.blocks
        if b.length == BLOCK
        for at in range(begin, len(prompt) - BLOCK + 1)
        if (prompt[at : at + BLOCK] == d.tokens[b.start : b.start + BLOCK]).all()
    ]


@st.composite
def scenes(draw: st.DrawFn) -> tuple[np.ndarray, list[Donor], int]:
    """Donors, and a prompt patched together from pieces of them and new text; few distinct tokens, many repeats."""
    letters = draw(st.integers(2, 60))
    seed = draw(st.integers(0, 2**20))
    rng = np.random.default_rng(seed)
    donors = []
    for i in range(draw(st.integers(1, 3))):
        tokens = rng.integers(0, letters, draw(st.integers(1, 70)))
        donors.append(donor(i + 10, tokens, draw(st.sets(st.integers(0, 8), max_size=3))))
    parts = []
    for _ in range(draw(st.integers(0, 5))):
        source = donors[draw(st.integers(0, len(donors) - 1))].tokens
        a = draw(st.integers(0, len(source)))
        parts += [source[a : a + draw(st.integers(0, 40))], rng.integers(0, letters, draw(st.integers(0, 6)))]
    prompt = np.concatenate([*parts, rng.integers(0, letters, 3)])
    return prompt, [d for d in donors if d.blocks], draw(st.integers(0, 10))


@settings(max_examples=200, deadline=None)
@given(scenes(), st.integers(1, 20))
def test_spans_are_equal_stored_text_in_order(scene: tuple[np.ndarray, list[Donor], int], least: int) -> None:
    prompt, donors, begin = scene
    spans = find_spans(prompt, begin, donors, block_hits(prompt, begin, donors), least)
    end = begin
    for span in spans:
        assert span.start >= end
        assert span.length >= least
        end = span.end
        source = slice(span.source, span.source + span.length)
        assert (prompt[span.start : span.end] == donors[span.donor].tokens[source]).all()
        assert donors[span.donor].stored()[source].all()


@settings(max_examples=200, deadline=None)
@given(scenes())
def test_every_window_that_is_stored_is_covered(scene: tuple[np.ndarray, list[Donor], int]) -> None:
    prompt, donors, begin = scene
    hits = block_hits(prompt, begin, donors)
    spans = find_spans(prompt, begin, donors, hits, 1)
    covered = np.zeros(len(prompt) + 1, bool)
    for span in spans:
        covered[span.start : span.end] = True
    for hit in hits:
        assert covered[hit.at]


@settings(max_examples=60, deadline=None)
@given(st.permutations(range(6)), st.integers(0, 2**20), st.integers(0, 12))
def test_planted_moves_are_found_whole(order: list[int], seed: int, gap: int) -> None:
    rng = np.random.default_rng(seed)
    source = rng.integers(0, 10**6, 6 * 24)
    pieces = [source[24 * i : 24 * (i + 1)] for i in order]
    prompt = np.concatenate([np.concatenate((rng.integers(10**6, 10**7, gap), piece)) for piece in pieces])
    donors = [donor(1, source, set())]
    found = hashes.rolling(SCOPES[0], prompt, BLOCK)
    stored = {int(h): at for at, h in enumerate(hashes.rolling(SCOPES[0], source, BLOCK)) if at % BLOCK == 0}
    hits = [Hit(at, 1, stored[int(h)]) for at, h in enumerate(found) if int(h) in stored]
    spans = find_spans(prompt, 0, donors, hits, 8)
    assert sum(s.length for s in spans) == len(source)


tokens = st.lists(st.integers(0, 50_000), min_size=0, max_size=80).map(lambda t: np.asarray(t, np.int64))


@settings(max_examples=100, deadline=None)
@given(tokens, tokens, st.integers(1, 20))
def test_chains_agree_exactly_as_far_as_whole_blocks_do(one: np.ndarray, two: np.ndarray, size: int) -> None:
    scope = SCOPES[0]
    first, second = (hashes.hash_blocks(scope, t, size, len(t)) for t in (one, two))
    for a, b in zip(first, second, strict=False):
        end_a, end_b = a.start + a.length, b.start + b.length
        same_text = end_a == end_b and (one[:end_a] == two[:end_b]).all()
        assert (a.prefix == b.prefix) == bool(same_text)


@settings(max_examples=100, deadline=None)
@given(tokens, st.integers(1, 20), st.data())
def test_salted_names_never_meet_true_ones(text: np.ndarray, size: int, data: st.DataObject) -> None:
    exact = data.draw(st.integers(0, len(text)))
    scope = SCOPES[0]
    true = {b.prefix for s in range(len(text)) for b in hashes.hash_blocks(scope, text[: s + 1], size, s + 1)}
    named = hashes.hash_blocks(scope, text, size, exact, salt=b"turn")
    for block in named:
        assert (block.prefix in true) == (block.start + block.length <= exact)


@settings(max_examples=100, deadline=None)
@given(tokens, st.integers(0, 40), st.integers(1, 24))
def test_content_names_do_not_depend_on_the_offset(text: np.ndarray, offset: int, window: int) -> None:
    shifted = np.concatenate((np.arange(offset), text))
    for scope in SCOPES:
        here, there = hashes.rolling(scope, text, window), hashes.rolling(scope, shifted, window)
        assert len(here) == max(0, len(text) - window + 1)
        if len(here):
            assert (there[offset:] == here).all()
    if len(text) >= window:
        assert len({int(hashes.rolling(s, text, window)[0]) for s in SCOPES}) == len(SCOPES)
