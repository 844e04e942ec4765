"""How many drafted tokens a step carries: as many as make the most tokens a second, by acceptance and price."""

from __future__ import annotations

from collections.abc import Callable

LEAST_GAIN = 1.05
"""A draft has to be worth so many times the step without it."""
FORGETTING = 0.9
"""What one trial counts after the next one of its kind."""
PRIOR_TRIALS = 3.0
PRIORS = (0.05, 0.15, 0.35, 0.6, 0.8, 0.9)
"""Acceptance supposed before anything is seen, by the size of the match: 1, 2, 3 to 4, 5 to 8, 9 to 16, more."""


class Acceptance:
    """How often tokens drafted in one answer are the ones drawn, by how much stood before them in both places.

    Every draw is a trial, of the token that was drafted or would have been: it costs nothing to know that drafts would
    pay again.
    """

    def __init__(self) -> None:
        self._trials = [PRIOR_TRIALS] * len(PRIORS)
        self._accepted = [PRIOR_TRIALS * prior for prior in PRIORS]

    def saw(self, match_tokens: int, accepted: bool) -> None:
        """Learn from a draw.

        Args:
            match_tokens: Tokens before it that were equal in both places.
            accepted: Whether it was the token that followed in the other place.
        """
        kind = _kind(match_tokens)
        self._trials[kind] = FORGETTING * self._trials[kind] + 1.0
        self._accepted[kind] = FORGETTING * self._accepted[kind] + accepted

    def of(self, match_tokens: int) -> float:
        """The share that is accepted after so many equal tokens."""
        kind = _kind(match_tokens)
        return self._accepted[kind] / self._trials[kind]


def draft_length(match_tokens: int, most: int, acceptance: Acceptance, seconds: Callable[[int], float]) -> int:
    """How many tokens to draft; 0 where none pays.

    The token after `i` accepted ones has `match_tokens + i` equal ones before it. A step always brings one token.

    Args:
        match_tokens: How much of the context stands before the draft's source.
        most: How many tokens it has.
        acceptance: What is accepted in this answer.
        seconds: What a step with so many drafted tokens takes.
    """
    alone = seconds(0)
    best, length = LEAST_GAIN / alone, 0
    tokens, reached = 1.0, 1.0
    for drafted in range(1, most + 1):
        reached *= acceptance.of(match_tokens + drafted - 1)
        tokens += reached
        if (rate := tokens / seconds(drafted)) > best:
            best, length = rate, drafted
    return length


def _kind(match_tokens: int) -> int:
    return min((max(match_tokens, 1) - 1).bit_length(), len(PRIORS) - 1)
