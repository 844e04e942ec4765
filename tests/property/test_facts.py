"""Facts in generated texts: what changed is always found, what did not never is, and the time is linear."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from semshare_agents.match.facts import FACT_CHECKS, find_invalidated
from semshare_agents.match.words import TokenTexts, read
from semshare_agents.values import Alignment, BlockRef, Donor, Ints, Kind
from tests.words import WordTokenizer, tokens_of

PLAIN = "river stone walked garden slowly window yellow music bread under cloud singing table quiet horse paper".split()  # noqa: SIM905
FACTS = ["17", "1,204", "Alma", "Boris", "Friday", "October", "never", "eleven", "€", "forty"]
TEXTS = TokenTexts(WordTokenizer())


def aligned(prompt: Ints, donor: Ints, kind: Kind) -> Alignment:
    """Every equal token at its own place is matched; both texts have the same length."""
    equal = prompt == donor
    found = Alignment.empty(len(prompt))
    found.kind[equal], found.donor[equal] = kind, 0
    found.source[equal] = np.flatnonzero(equal)
    who = Donor(1, donor, (BlockRef("k", 0, len(donor), len(donor)),), len(donor))
    return Alignment(found.kind, found.donor, found.source, found.distance, (who,))


@st.composite
def edits(draw: st.DrawFn) -> tuple[list[list[str]], int, int, str, str]:
    rows = draw(st.lists(st.lists(st.sampled_from(PLAIN), min_size=6, max_size=14), min_size=3, max_size=12))
    line = draw(st.integers(0, len(rows) - 1))
    word = draw(st.integers(1, len(rows[line]) - 1))
    old, new = draw(st.permutations(FACTS))[:2]
    return rows, line, word, old, new


def written(rows: list[list[str]], line: int, word: int, fact: str) -> Ints:
    lines = [" ".join(["so", *row]) for row in rows]
    lines[line] = " ".join(["so", *rows[line][:word], fact, *rows[line][word:]])
    return tokens_of("\n".join([*lines, "and now?"]))


@settings(max_examples=150, deadline=None)
@given(edits(), st.sampled_from(["strict", "balanced"]), st.sampled_from([Kind.MOVED, Kind.SEMANTIC]))
def test_a_changed_fact_is_always_found(
    edit: tuple[list[list[str]], int, int, str, str], name: str, kind: Kind
) -> None:
    rows, line, word, old, new = edit
    prompt, donor = written(rows, line, word, new), written(rows, line, word, old)
    # A number with a comma is three tokens; the alignment here is by place.
    assume(len(prompt) == len(donor))
    guard = FACT_CHECKS[name]
    assert guard is not None
    marked = set(find_invalidated(prompt, aligned(prompt, donor, kind), 2, TEXTS, guard).tokens.tolist())
    text = read(TEXTS.of(prompt))
    here = text.passage(int(np.flatnonzero(prompt != donor)[0]))
    whole = set(range(int(text.starts[here]), int(text.starts[here + 1])))
    assert whole - set(np.flatnonzero(prompt != donor).tolist()) <= marked


@settings(max_examples=100, deadline=None)
@given(edits(), st.sampled_from(["strict", "balanced"]), st.integers(0, 30))
def test_equal_text_is_never_doubtful(edit: tuple[list[list[str]], int, int, str, str], name: str, ahead: int) -> None:
    rows, line, word, fact, _ = edit
    text = written(rows, line, word, fact)
    prompt = np.concatenate([tokens_of("quiet " * ahead + "\n"), text])
    found = Alignment.empty(len(prompt))
    start = len(prompt) - len(text)
    found.kind[start:], found.donor[start:], found.source[start:] = Kind.MOVED, 0, np.arange(len(text))
    who = Donor(1, text, (BlockRef("k", 0, len(text), len(text)),), len(text))
    guard = FACT_CHECKS[name]
    assert guard is not None
    whole = Alignment(found.kind, found.donor, found.source, found.distance, (who,))
    assert not len(find_invalidated(prompt, whole, 2, TEXTS, guard).tokens)


@pytest.mark.alone
def test_time_grows_with_the_text_and_not_with_its_square() -> None:
    def seconds(lines: int) -> float:
        rng = np.random.default_rng(0)
        rows = [[PLAIN[i] for i in rng.integers(0, len(PLAIN), 12)] for _ in range(lines)]
        prompt, donor = (written(rows, 3, 4, fact) for fact in ("17", "Alma"))
        found = aligned(prompt, donor, Kind.SEMANTIC)
        took = []
        for _ in range(3):
            start = time.process_time()
            find_invalidated(prompt, found, 2, TEXTS, guard)
            took.append(time.process_time() - start)
        return min(took)

    guard = FACT_CHECKS["strict"]
    assert guard is not None
    seconds(50)
    assert seconds(1600) < 16 * seconds(200)
