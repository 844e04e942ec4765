"""Passages that a question names."""

from __future__ import annotations

import numpy as np

from semshare_agents.match.question import asked
from semshare_agents.match.words import TokenTexts
from tests.words import WordTokenizer, tokens_of

LINES = [
    "Mara: we painted the fence on the hill.",
    "Otto: the harbour was empty when the ferry came.",
    "Mara: our fence leans after the storm.",
    "Otto: nobody saw the heron.",
    "Mara: the soup was far too hot.",
]


def scores(question: str) -> list[float]:
    """What each line has in common with a question, then the question itself."""
    pieces = [*(line + "\n" for line in LINES), question]
    prompt = tokens_of("".join(pieces))
    found = asked(prompt, len(tokens_of(question)), TokenTexts(WordTokenizer()))
    assert found.shape == prompt.shape
    edges = np.cumsum([0, *(len(tokens_of(piece)) for piece in pieces)])
    parts = np.split(found, edges[1:-1])
    assert all((part == part[0]).all() for part in parts)
    return [float(part[0]) for part in parts]


def test_rare_words_count_more_than_frequent_ones_and_function_words_not_at_all() -> None:
    assert scores("Why is it the one that you are?") == [0.0] * 6
    _, ferry, _, heron, only_name, question = scores("What did Mara say of the ferry and the heron?")
    assert ferry == heron > only_name > 0
    assert question == 0


def test_inflections_share_their_stem() -> None:
    found = scores("Who was painting?")
    assert found[0] > 0
    assert found[1:] == [0.0] * 5
