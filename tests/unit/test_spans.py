"""Equal spans between a prompt and its donors."""

from __future__ import annotations

import numpy as np
import pytest

from semshare_agents.match.spans import Span, equal_ahead, equal_behind, find_spans
from semshare_agents.values import BlockRef, Donor, Hit


def text(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 10_000, count)


def donor(turn_id: int, tokens: np.ndarray, *holes: int, block: int = 16, depth: int = 0) -> Donor:
    """A donor whose blocks are all stored except those numbered in `holes`."""
    refs = [
        BlockRef(f"{turn_id}-{i}", at, min(block, len(tokens) - at), min(block, len(tokens) - at))
        for i, at in enumerate(range(0, len(tokens), block))
        if i not in holes
    ]
    return Donor(turn_id, tokens, tuple(refs), len(tokens), depth)


def test_equal_ahead_and_behind() -> None:
    a, b = np.asarray([1, 2, 3, 4, 5]), np.asarray([1, 2, 9, 4, 5, 6])
    assert equal_ahead(a, b) == 2
    assert equal_ahead(a, a) == 5
    assert equal_ahead(a, a[:3]) == 3
    assert equal_ahead(a[:0], b) == 0
    assert equal_behind(a, np.asarray([7, 4, 5])) == 2
    assert equal_behind(a, b) == 0


def test_a_hit_grows_both_ways() -> None:
    source = text(100, 1)
    prompt = np.concatenate((text(10, 2), source[20:90], text(10, 3)))
    spans = find_spans(prompt, 0, [donor(5, source)], [Hit(10 + 28, 5, 48)], 8)
    assert spans == [Span(10, 80, 0, 20)]
    assert spans[0].length == 70


def test_swapped_halves_are_both_found() -> None:
    source = text(128, 1)
    prompt = np.concatenate((source[64:], source[:64]))
    spans = find_spans(prompt, 0, [donor(5, source)], [Hit(0, 5, 64), Hit(64, 5, 0)], 8)
    assert spans == [Span(0, 64, 0, 64), Span(64, 128, 0, 0)]


def test_several_donors_serve_one_prompt() -> None:
    one, two = text(64, 1), text(64, 2)
    prompt = np.concatenate((two[16:48], text(7, 3), one[:32]))
    hits = [Hit(0, 9, 16), Hit(39, 8, 0)]
    spans = find_spans(prompt, 0, [donor(8, one), donor(9, two)], hits, 8)
    assert spans == [Span(0, 32, 1, 16), Span(39, 71, 0, 0)]


def test_the_span_that_reaches_furthest_wins() -> None:
    long = text(64, 1)
    short = np.concatenate((long[:32], text(32, 2)))
    spans = find_spans(long, 0, [donor(1, short), donor(2, long)], [Hit(0, 1, 0), Hit(0, 2, 0)], 8)
    assert spans == [Span(0, 64, 1, 0)]


def test_a_later_hit_of_a_donor_that_reaches_further_takes_the_whole_span() -> None:
    prompt = text(100, 1)
    old = donor(3, np.concatenate((text(5, 2), prompt[:60])))
    new = donor(4, np.concatenate((text(9, 3), prompt)))
    hits = [Hit(2, 3, 7), Hit(7, 4, 16)]
    assert find_spans(prompt, 0, [old, new], hits, 8) == [Span(0, 100, 1, 9)]
    # What is exact is not given up for what drifted.
    drifted = donor(4, new.tokens, depth=1)
    assert find_spans(prompt, 0, [old, drifted], [*hits, Hit(71, 4, 80)], 8) == [
        Span(0, 60, 0, 5),
        Span(60, 100, 1, 69),
    ]
    # A later hit whose span begins later is another span.
    late = donor(4, np.concatenate((text(9, 3), prompt[5:])))
    assert find_spans(prompt, 0, [old, late], [hits[0], Hit(12, 4, 16)], 8)[0] == Span(0, 60, 0, 5)


def test_among_equals_the_nearer_to_exact_wins() -> None:
    same = text(64, 1)
    donors = [donor(1, same, depth=0), donor(2, same, depth=3)]
    assert find_spans(same, 0, donors, [Hit(0, 1, 0), Hit(0, 2, 0)], 8)[0].donor == 0


def test_spans_stop_at_what_is_no_longer_stored() -> None:
    source = text(80, 1)
    gappy = donor(5, source, 1, 4)
    spans = find_spans(source, 0, [gappy], [Hit(32, 5, 32)], 8)
    assert spans == [Span(32, 64, 0, 32)]


def test_short_spans_are_left_out_and_do_not_hide_longer_ones() -> None:
    source, other = text(40, 1), text(40, 2)
    prompt = np.concatenate((source[:10], other[:40]))
    hits = [Hit(0, 5, 0), Hit(10, 6, 0)]
    spans = find_spans(prompt, 0, [donor(5, source), donor(6, other)], hits, 16)
    assert spans == [Span(10, 50, 1, 0)]


def test_what_is_taken_stays_taken() -> None:
    source = text(64, 1)
    spans = find_spans(source, 20, [donor(5, source)], [Hit(0, 5, 0), Hit(32, 5, 32)], 8)
    assert spans == [Span(20, 64, 0, 20)]


def test_repeated_text_never_overlaps() -> None:
    part = text(20, 1)
    prompt = np.concatenate([part] * 4)
    hits = [Hit(i, 5, 0) for i in (0, 20, 40, 60)] + [Hit(i, 5, 4) for i in (4, 24, 44)]
    spans = find_spans(prompt, 0, [donor(5, part)], hits, 8)
    assert [(s.start, s.end, s.source) for s in spans] == [(0, 20, 0), (20, 40, 0), (40, 60, 0), (60, 80, 0)]


@pytest.mark.parametrize("hits", [[], [Hit(0, 99, 0)]])
def test_no_known_donor_no_span(hits: list[Hit]) -> None:
    assert find_spans(text(30, 1), 0, [donor(5, text(30, 1))], hits, 8) == []
