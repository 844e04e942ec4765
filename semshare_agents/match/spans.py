"""Moved text: maximal equal spans between a prompt and its donors, in any order and at any offset.

The idea is rsync's: a rolling hash over the prompt meets the content names of stored blocks, and each meeting is
extended both ways, token by token, across the donor's whole turn. Work is linear in the prompt and in the hits.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from semshare_agents.values import Donor, Hit, Ints

LATER_HITS = 8
"""How many places are looked at for a donor that reaches further; each donor has one in a block's length."""


@dataclass(frozen=True)
class Span:
    """Equal text.

    Attributes:
        start: First prompt position.
        end: Position past the last.
        donor: Index of the donor.
        source: Donor position of `start`.
    """

    start: int
    end: int
    donor: int
    source: int

    @property
    def length(self) -> int:
        """Tokens of the span."""
        return self.end - self.start


def equal_ahead(a: Ints, b: Ints) -> int:
    """Length of the common beginning of two token arrays."""
    size = min(len(a), len(b))
    different = np.flatnonzero(a[:size] != b[:size])
    return int(different[0]) if len(different) else size


def equal_behind(a: Ints, b: Ints) -> int:
    """Length of the common end of two token arrays."""
    return equal_ahead(a[::-1], b[::-1])


def find_spans(prompt: Ints, begin: int, donors: Sequence[Donor], hits: Iterable[Hit], least_tokens: int) -> list[Span]:
    """Cover a prompt with maximal equal spans.

    Hits are taken from left to right; at each, the donor whose span reaches furthest wins, nearer-to-exact donors
    first among equals. Blocks of another donor that has the same text lie at other places, so its hit may come later:
    where it reaches further and is no less exact, it takes the whole span. Spans never overlap and never leave what the
    donors have stored.

    Args:
        prompt: Token ids, shape `(tokens,)`.
        begin: Positions before it are taken already.
        donors: Candidates.
        hits: Where the prompt meets them.
        least_tokens: Shorter spans are not worth their recomputed head.
    """
    by_turn = {donor.turn_id: i for i, donor in enumerate(donors)}
    gaps = [_gaps(donor) for donor in donors]
    groups: dict[int, list[Hit]] = {}
    for hit in hits:
        if hit.at >= begin and hit.turn_id in by_turn:
            groups.setdefault(hit.at, []).append(hit)
    spans: list[Span] = []
    taken = begin
    places = sorted(groups)

    def spans_at(at: int) -> list[Span]:
        return [_extend(prompt, taken, donors, gaps, by_turn[hit.turn_id], hit) for hit in groups[at]]

    def rank(s: Span) -> tuple[int, int, int, bool, int]:
        return s.end, -s.start, -donors[s.donor].depth, s.source == s.start, donors[s.donor].turn_id

    for number, at in enumerate(places):
        if at < taken:
            continue
        best = max(spans_at(at), key=rank)
        for later in places[number + 1 : number + 1 + LATER_HITS]:
            covering = (s for s in spans_at(later) if s.start <= best.start)
            no_deeper = (s for s in covering if donors[s.donor].depth <= donors[best.donor].depth)
            best = max([best, *no_deeper], key=rank)
        if best.length >= least_tokens:
            spans.append(best)
            taken = best.end
    return spans


def _gaps(donor: Donor) -> Ints:
    """Positions of a donor without stored KV, ascending."""
    return np.flatnonzero(~donor.stored())


def _extend(prompt: Ints, taken: int, donors: Sequence[Donor], gaps: Sequence[Ints], index: int, hit: Hit) -> Span:
    tokens, missing = donors[index].tokens, gaps[index]
    next_gap = int(np.searchsorted(missing, hit.source))
    low = int(missing[next_gap - 1]) + 1 if next_gap else 0
    high = int(missing[next_gap]) if next_gap < len(missing) else len(tokens)
    ahead = equal_ahead(prompt[hit.at :], tokens[hit.source : high])
    behind = equal_behind(prompt[taken : hit.at], tokens[low : hit.source])
    return Span(hit.at - behind, hit.at + ahead, index, hit.source - behind)
