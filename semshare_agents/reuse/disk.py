"""How fast blocks are read from disk, learned from loads."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

ASSUMED_BYTES_PER_SECOND = 1.0e9
"""Until the first read was timed."""
LEARNING = 0.3
LEAST_BYTES = 1 << 20
"""Small loads tell of the way to the disk rather than of the disk."""
FORGETS_SECONDS = 600.0
"""What slow loads taught counts half after so long: a disk that nobody reads from for fear of it could never show that
it is fast again."""


class DiskSpeed:
    """The mean time of a byte, over files that the system still had in RAM and those it did not.

    Args:
        bytes_per_second: What was known of it; None for nothing.
        clock: Seconds that never go back.

    Attributes:
        loads: How many loads taught it.
    """

    def __init__(self, bytes_per_second: float | None, clock: Callable[[], float]):
        self._clock = clock
        self._seconds_per_byte = 1.0 / (bytes_per_second or ASSUMED_BYTES_PER_SECOND)
        self._seen_at = clock()
        self.loads = 0

    @property
    def bytes_per_second(self) -> float:
        """What loads give by now."""
        assumed = 1.0 / ASSUMED_BYTES_PER_SECOND
        kept: float = 0.5 ** ((self._clock() - self._seen_at) / FORGETS_SECONDS)
        return 1.0 / (assumed + (self._seconds_per_byte - assumed) * kept)

    def saw(self, size_bytes: int, seconds: float) -> None:
        """Learn from a load; one moves the speed tenfold at most."""
        if size_bytes < LEAST_BYTES or seconds <= 0:
            return
        before = 1.0 / self.bytes_per_second
        seen = float(np.clip(seconds / size_bytes, before / 10, before * 10))
        self._seconds_per_byte = before + LEARNING * (seen - before)
        self._seen_at = self._clock()
        self.loads += 1
