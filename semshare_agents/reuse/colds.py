"""What full prefills really took on this machine, and what one of like length would take."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

MOST_KEPT = 256
NEWEST = 9
"""Colds of like length that an estimate rests on."""
LIKE = 1.5
"""Lengths within this factor of each other are alike: what lies between them is a small correction."""


@dataclass(frozen=True)
class LikeCold:
    """What a full prefill would have taken, by measured ones of like length.

    Attributes:
        seconds: Their median, brought to this length.
        low: The fastest of them.
        high: The slowest.
        runs: How many there are.
    """

    seconds: float
    low: float
    high: float
    runs: int


class ColdRuns:
    """The newest full prefills that nothing disturbed.

    Args:
        runs: Tokens and seconds, oldest first.
    """

    def __init__(self, runs: Iterable[tuple[int, float]] = ()):
        self._runs: deque[tuple[int, float]] = deque(runs, MOST_KEPT)

    def add(self, tokens: int, seconds: float) -> None:
        """A full prefill was measured."""
        self._runs.append((tokens, seconds))

    @property
    def runs(self) -> tuple[tuple[int, float], ...]:
        """Tokens and seconds, oldest first."""
        return tuple(self._runs)

    def like(self, tokens: int, shape: Callable[[int], float]) -> LikeCold | None:
        """What a prefill would take; None where none of like length was measured.

        Args:
            tokens: Its length.
            shape: Predicted seconds by length, of which ratios alone count: how fast the machine is cancels out.
        """
        alike = [(n, s) for n, s in reversed(self._runs) if tokens <= n * LIKE and n <= tokens * LIKE][:NEWEST]
        if not alike:
            return None
        seconds = [s * shape(tokens) / shape(n) for n, s in alike]
        return LikeCold(float(np.median(seconds)), min(seconds), max(seconds), len(seconds))
