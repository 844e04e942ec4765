"""Changed facts are found and computed; equal text is left alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from semshare_agents.bench.facts import count_facts, fact_columns, states
from semshare_agents.match.facts import FACT_CHECKS, FactCheck, Invalidated, facts_checked, find_invalidated
from semshare_agents.match.words import NEGATED, TokenTexts, read
from semshare_agents.reuse.plan import required_rows
from semshare_agents.values import Alignment, BlockRef, Donor, Ints, Kind, ReasonCode
from tests.words import WordTokenizer, tokens_of

STRICT, BALANCED = FactCheck(), FACT_CHECKS["balanced"]
BEFORE = [f"Line {w} tells of the {w} road to the {w} mill and its miller." for w in ("old", "wet", "long", "dry")]
AFTER = [f"Then {w} people walked along a {w} river towards home." for w in ("tired", "merry", "silent", "hungry")]


def texts() -> TokenTexts:
    return TokenTexts(WordTokenizer())


def edited(old: str, new: str, kind: Kind = Kind.MOVED) -> tuple[Ints, Alignment, tuple[int, int]]:
    """A prompt that has `new` in the place of its donor's `old`; its tokens, an alignment, and where `new` stands."""
    mine, theirs = (tokens_of("\n".join([*BEFORE, line, *AFTER, "Who?"])) for line in (new, old))
    same_head = int(np.flatnonzero(np.append(mine[: len(theirs)] != theirs[: len(mine)], True))[0])
    rest = min(len(mine), len(theirs)) - same_head
    back = np.flatnonzero(np.append(mine[::-1][:rest] != theirs[::-1][:rest], True))
    same_tail = int(back[0])
    found = Alignment.empty(len(mine))
    for start, end, source in (
        (0, same_head, 0),
        (len(mine) - same_tail, len(mine), len(theirs) - same_tail),
    ):
        found.kind[start:end], found.donor[start:end] = kind, 0
        found.source[start:end] = np.arange(source, source + end - start)
    donor = Donor(1, theirs, (BlockRef("k", 0, len(theirs), len(theirs)),), len(theirs))
    start = len(tokens_of("\n".join(BEFORE) + "\n"))
    return mine, replace(found, donors=(donor,)), (start, start + len(tokens_of(new)))


def doubt(old: str, new: str, kind: Kind = Kind.MOVED, guard: FactCheck = STRICT) -> tuple[Invalidated, set[int]]:
    prompt, found, (start, end) = edited(old, new, kind)
    return find_invalidated(prompt, found, 2, texts(), guard), {
        i for i in range(start, end) if found.kind[i] != Kind.COMPUTED
    }


CHANGES = [
    ("The bill was 250 euros last year.", "The bill was 350 euros last year."),
    ("The bill was 2,500 euros last year.", "The bill was 25,000 euros last year."),
    ("She has seven cousins in the north.", "She has nine cousins in the north."),
    ("The ship belongs to Imogen since then.", "The ship belongs to Bruno since then."),
    ("They leave in March on the ferry.", "They leave in May on the ferry."),
    ("The bridge is safe for lorries today.", "The bridge is not safe for lorries today."),
    ("The bridge isn't safe for lorries today.", "The bridge is safe for lorries today."),
    ("It took three weeks to build it.", "It took three months to build it."),
    ("The vote was lost by the council.", "The vote was won by the council."),
    ("Then Bruno paid Greta for the boat.", "Then Greta paid Bruno for the boat."),
    ("The price is $40 at the door.", "The price is €40 at the door."),
]


@pytest.mark.parametrize("guard", [STRICT, BALANCED], ids=["strict", "balanced"])
@pytest.mark.parametrize("kind", [Kind.MOVED, Kind.SEMANTIC])
@pytest.mark.parametrize(("old", "new"), CHANGES)
def test_a_changed_fact_makes_its_whole_line_doubtful(old: str, new: str, kind: Kind, guard: FactCheck) -> None:
    found, line = doubt(old, new, kind, guard)
    assert line <= set(found.tokens.tolist())
    assert found.changed > 0


@pytest.mark.parametrize("kind", [Kind.MOVED, Kind.SEMANTIC])
def test_any_other_word_in_like_wording_counts_where_one_is_wary(kind: Kind) -> None:
    old, new = "The painting shows a calm lake at dawn.", "The painting shows a calm harbour at dawn."
    found, line = doubt(old, new, kind)
    assert line <= set(found.tokens.tolist())
    assert doubt(old, new, kind, FactCheck(wary=False))[0].changed == 0


def test_the_question_is_computed_once_a_fact_changed() -> None:
    prompt, found, _ = edited(*CHANGES[0])
    marked = find_invalidated(prompt, found, 2, texts(), STRICT).tokens
    assert {len(prompt) - 2, len(prompt) - 1} <= set(marked.tolist())


def test_lines_that_mention_what_changed_are_computed_and_unrelated_ones_are_not() -> None:
    old, new = (f"The headquarters moved to {town} after the flood." for town in ("Bergen", "Cadiz"))
    mention = "A van drove to the headquarters with flags."
    AFTER.insert(2, mention)
    try:
        prompt, found, _ = edited(old, new)
    finally:
        AFTER.remove(mention)
    marked = set(find_invalidated(prompt, found, 2, texts(), FactCheck(mention_share=1.0)).tokens.tolist())
    text = read(texts().of(prompt))
    lines = [set(range(int(a), int(b))) for a, b in zip(text.starts, text.starts[1:], strict=False)]
    assert lines[7] <= marked
    assert not lines[0] & marked


def test_inserted_and_dropped_lines_replace_no_fact() -> None:
    prompt, found, _ = edited("", "A storm of 1888 tore the roof from 12 houses.")
    assert not len(find_invalidated(prompt, found, 2, texts(), STRICT).tokens)
    prompt, found, _ = edited("A storm of 1888 tore the roof from 12 houses.\nIt was Bruno who saw it.", "")
    assert not len(find_invalidated(prompt, found, 2, texts(), STRICT).tokens)


def test_equal_text_is_never_doubtful() -> None:
    prompt, found, _ = edited(CHANGES[0][0], CHANGES[0][0])
    assert not len(find_invalidated(prompt, found, 2, texts(), STRICT).tokens)


def test_semantic_matches_are_refused_where_too_much_differs() -> None:
    prompt, found, _ = edited(*CHANGES[0], kind=Kind.SEMANTIC)
    kept = facts_checked(prompt, found, 2, texts(), STRICT)
    assert not kept.refused
    assert len(kept.invalidated)
    refused = facts_checked(prompt, found, 2, texts(), FactCheck(most_changed=0.0))
    assert refused.refused is not None
    assert refused.refused.code == ReasonCode.FACTS
    assert "differ" in refused.refused.text
    assert not (refused.kind == Kind.SEMANTIC).any()
    assert (refused.donor == -1).all()


def test_doubtful_tokens_are_required_rows() -> None:
    _, found, _ = edited(*CHANGES[0])
    marked = replace(found, invalidated=np.array([20, 21]))
    assert required_rows(marked, 0, 1)[[20, 21]].all()
    assert not required_rows(found, 0, 1)[[20, 21]].any()


def test_words_have_normal_forms() -> None:
    words = read(list("He isn't in Paris; 2,500 twenty men, no?")).words
    assert [w.text for w in words] == ["he", NEGATED, "in", "paris", "2500", "20", "men", NEGATED]
    assert [w.fact for w in words] == [False, True, False, True, True, True, False, True]
    assert (words[3].first, words[3].end) == (12, 17)


def test_token_texts_keep_spaces_and_join_to_the_text() -> None:
    text = "One line.\nAnother  line"
    assert "".join(texts().of(tokens_of(text))) == text


@pytest.mark.parametrize(
    ("answer", "fact", "said"),
    [
        ("It was a Harbor.", "A harbor", True),
        ("The harbors are far.", "A harbor", False),
        ("She paid 2,500 euros", "2,500", True),
        ("Last Sunday evening", "last sunday", True),
        ("Sunday, the last", "last Sunday", False),
        ("", "Yes", False),
    ],
)
def test_an_answer_states_a_fact_by_whole_words(answer: str, fact: str, said: bool) -> None:
    assert states(answer, fact) is said


def test_stale_and_lost_facts_are_counted_against_the_cold_answer() -> None:
    pair = {"answer": "Cadiz", "stale_answer": "Bergen"}
    rows = [fact_columns(pair, cold, reuse) for cold, reuse in (("Cadiz", "Bergen"), ("Bergen", "Bergen"), ("", ""))]
    assert count_facts(rows) == {
        "pairs": 3,
        "fresh_cold": 1,
        "fresh_reuse": 0,
        "stale_cold": 1,
        "stale_reuse": 2,
        "stale": 1,
        "fresh_lost": 1,
    }
    assert fact_columns({}, "a", "b") == {}
    assert count_facts([{}]) == {}
