"""Whether an answer states a fact: of the prompt it answers (fresh), or of the turn whose KV was reused (stale).

A pair that says what changed carries `answer`, the new fact, and `stale_answer`, what the reference said.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

WORD = re.compile(r"[^\W_]+")
OPENINGS = frozenset({"a", "an", "the", "on", "in", "at"})
"""What a fact may begin with and an answer may leave out."""


def states(answer: str, fact: str) -> bool:
    """Whether an answer has a fact's words in a row, whole and in any case; articles before the fact do not count."""
    said, wanted = _words(answer), _words(fact)
    while len(wanted) > 1 and wanted[0] in OPENINGS:
        wanted = wanted[1:]
    return bool(wanted) and any(said[i : i + len(wanted)] == wanted for i in range(len(said) - len(wanted) + 1))


def _words(text: str) -> list[str]:
    return WORD.findall(text.casefold())


def fact_columns(pair: Mapping[str, Any], cold_text: str, reuse_text: str) -> dict[str, bool]:
    """What the two answers to a pair say of its facts.

    Args:
        pair: A pair, with or without facts.
        cold_text: The cold answer.
        reuse_text: The answer with reuse.

    Returns:
        `fresh_cold`, `fresh_reuse`, `stale_cold` and `stale_reuse`: who states what; `stale`: reuse states the old
        fact where the cold answer does not; `fresh_lost`: cold states the new fact and reuse does not. Empty for a
        pair without facts.
    """
    if "answer" not in pair or "stale_answer" not in pair:
        return {}
    fresh = [states(text, str(pair["answer"])) for text in (cold_text, reuse_text)]
    old = [states(text, str(pair["stale_answer"])) for text in (cold_text, reuse_text)]
    return {
        "fresh_cold": fresh[0],
        "fresh_reuse": fresh[1],
        "stale_cold": old[0],
        "stale_reuse": old[1],
        "stale": old[1] and not old[0],
        "fresh_lost": fresh[0] and not fresh[1],
    }


def count_facts(rows: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """How many rows have facts (`pairs`), and how often each column of `fact_columns` is true; empty without facts."""
    mine = [row for row in rows if "stale" in row]
    columns = ("fresh_cold", "fresh_reuse", "stale_cold", "stale_reuse", "stale", "fresh_lost")
    return {"pairs": len(mine), **{c: sum(bool(row[c]) for row in mine) for c in columns}} if mine else {}
