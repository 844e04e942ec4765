"""What a tier must not let go, and what it holds itself to besides its budget."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock


class Leases:
    """Counts who uses which block; leased blocks are never evicted."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._count: Counter[str] = Counter()

    @contextmanager
    def hold(self, keys: Iterable[str]) -> Iterator[None]:
        """Lease blocks for the length of a `with` block."""
        held = list(keys)
        with self._lock:
            self._count.update(held)
        try:
            yield
        finally:
            with self._lock:
                self._count.subtract(held)
                self._count += Counter()  # drops keys whose count is back to zero

    def __contains__(self, key: object) -> bool:
        with self._lock:
            return key in self._count


class Pins:
    """Until when pinned blocks have to stay; read by all tiers, replaced as a whole."""

    def __init__(self) -> None:
        self._ends_at: Mapping[str, float] = {}

    def replace(self, ends_at: Mapping[str, float]) -> None:
        """From now on these blocks are pinned and no others.

        Args:
            ends_at: When the pin of each ends, in seconds on the tiers' clock.
        """
        self._ends_at = ends_at

    def hold(self, key: str, at: float) -> bool:
        """Whether a block is pinned at a time."""
        ends_at = self._ends_at.get(key)
        return ends_at is not None and at < ends_at


@dataclass(frozen=True)
class Limits:
    """What a tier holds itself to besides its budget.

    Attributes:
        high: Share of the budget above which a sweep makes room.
        low: Share down to which it does.
        tenant_bytes: Most bytes of one tenant; None for no quota.
    """

    high: float = 1.0
    low: float = 1.0
    tenant_bytes: int | None = None
