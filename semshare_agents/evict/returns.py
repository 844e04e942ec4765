"""When conversations go on: learned from those that did and those that did not."""

from __future__ import annotations

import numpy as np

from semshare_agents.values import Floats

BUCKETS = 40
"""Two for each doubling of the pause; the last ends after twelve days."""
EDGES = np.r_[0.0, 2.0 ** (np.arange(1, BUCKETS + 1) / 2) - 1.0]
WIDTHS = np.diff(EDGES)
CLASSES = 3
PRIOR_SECONDS = 60.0
"""Before anything was seen a conversation is half as likely to go on once its pause is this long."""


class Returns:
    """How soon a conversation goes on, by the turns it has had and the length of its pause so far.

    Counts, for each class and stretch of the pause, how often it ended there and how many seconds were spent there: the
    rate of return. The index of a pause is the best rate of return that waiting from there on can have, over all
    lengths of waiting (Gittins 1979); its inverse ranks what to keep when what is kept costs room all the time.
    """

    def __init__(self) -> None:
        middle = (EDGES[1:] + EDGES[:-1]) / 2
        self._returned: Floats = np.tile(WIDTHS / (middle + PRIOR_SECONDS), (CLASSES, 1))
        self._waited: Floats = np.tile(2.0 * WIDTHS, (CLASSES, 1))

    def saw(self, turns: int, pause_seconds: float, returned: bool) -> None:
        """A pause ended, or nobody watches it any more."""
        row = min(turns, CLASSES - 1)
        if returned:
            self._returned[row, bucket(pause_seconds)] += 1
        self._waited[row] += _spent(pause_seconds)

    def indices(self, pauses: list[tuple[int, float]]) -> Floats:
        """The index of every class and stretch, in returns a second, shape `(CLASSES, BUCKETS)`.

        Args:
            pauses: Turns and length so far of pauses under way.
        """
        waited = self._waited.copy()
        for turns, seconds in pauses:
            waited[min(turns, CLASSES - 1)] += _spent(seconds)
        rates = self._returned / waited
        return np.array([[_index(rate[first:], WIDTHS[first:]) for first in range(BUCKETS)] for rate in rates])


def bucket(pause_seconds: float) -> int:
    """The stretch in which a pause is."""
    return min(int(2.0 * np.log2(max(pause_seconds, 0.0) + 1.0)), BUCKETS - 1)


def _spent(pause_seconds: float) -> Floats:
    spent: Floats = np.clip(pause_seconds - EDGES[:-1], 0.0, WIDTHS)
    return spent


def _index(rates: Floats, widths: Floats) -> float:
    """Largest chance of a return within some time over the mean time waited for it, for rates constant in stretches."""
    staying = np.exp(-np.cumsum(rates * widths))
    waiting = np.cumsum(-np.diff(np.r_[1.0, staying]) / rates)
    return float(np.max((1.0 - staying) / waiting))
