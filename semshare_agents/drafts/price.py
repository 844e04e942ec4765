"""What decoding steps take by their rows, learned from the steps themselves.

A step of one row waits for the weights to come from memory, and a few rows more may cost next to nothing or twice as
much: that is up to the machine's kernels, and no line through two measured passes says it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import cache
from statistics import median

import numpy as np

from semshare_agents.reuse.cost import CostModel

KEPT_STEPS = 9
"""Of so many of the newest steps of a size the median counts: a busy moment does not decide."""
PROBE_STEPS = 64
"""A size that was not seen for so many steps is in question: one step finds out."""

DOUBLING = 1.25
"""Twice the rows are supposed to cost no more than so many times as much before it is seen: trying costs one step."""


class StepPrice:
    """Predicts and learns what steps take. All methods belong on the event loop's thread.

    Steps are told apart by their rows in powers of two. What they take is noted in relation to what the cost model says
    of one row there, so that steps after few tokens teach those after many.

    Args:
        cost: Predicts passes; None where nothing is known of them.
    """

    def __init__(self, cost: CostModel | None):
        self._cost = cost
        self._seen: dict[int, deque[float]] = {}
        self._unseen: dict[int, int] = {}

    def seconds(self, rows: int, tokens: int) -> float:
        """What a step takes, in seconds; without a cost model in a unit of its own.

        Args:
            rows: Its rows.
            tokens: Tokens before it.
        """
        size = _size(rows)
        if size in self._seen and not self.doubtful(rows):
            return median(self._seen[size]) * self._predicted(1, tokens)
        if not size:
            return self._predicted(1, tokens)
        one, fewer = self.seconds(1, tokens), self.seconds(2 ** (size - 1), tokens)
        return min(one * self._predicted(rows, tokens) / self._predicted(1, tokens), DOUBLING * fewer)

    def after(self, tokens: int) -> Callable[[int], float]:
        """`seconds` by rows after so many tokens, of every size alike; each size is looked at once."""
        of_size = cache(lambda size: self.seconds(2**size, tokens))
        return lambda rows: of_size(_size(rows))

    def saw(self, rows: int, tokens: int, seconds: float) -> None:
        """Learn from a step; arguments as in `seconds`, and what it took."""
        size = _size(rows)
        if size not in self._seen or self.doubtful(rows):
            self._seen[size] = deque(maxlen=KEPT_STEPS)
        self._seen[size].append(seconds / self._predicted(1, tokens))
        for other in self._seen:
            self._unseen[other] = 0 if other == size else self._unseen.get(other, 0) + 1

    def doubtful(self, rows: int) -> bool:
        """Whether a size was not seen for long: what is known of it may be of a busy moment, and counts no more."""
        return self._unseen.get(_size(rows), 0) >= PROBE_STEPS

    def _predicted(self, rows: int, tokens: int) -> float:
        return 1.0 if self._cost is None else max(1e-9, self._cost.pass_seconds(np.arange(tokens, tokens + rows)))


def _size(rows: int) -> int:
    """The power of two that holds so many rows."""
    return (rows - 1).bit_length()
