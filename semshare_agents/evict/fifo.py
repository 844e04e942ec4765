"""First in, first out."""

from __future__ import annotations

from collections.abc import Iterator

from semshare_agents.evict.base import Entry, EvictionPolicy, Use


class FIFO(EvictionPolicy):
    """The entry that came first goes first, however much it is used."""

    def __init__(self) -> None:
        self._order: dict[str, None] = {}

    def added(self, entry: Entry, use: Use) -> None:
        """See `EvictionPolicy.added`."""
        self._order.setdefault(entry.key)

    def used(self, key: str, use: Use) -> None:
        """See `EvictionPolicy.used`."""

    def removed(self, key: str) -> None:
        """See `EvictionPolicy.removed`."""
        self._order.pop(key, None)

    def candidates(self, at: float) -> Iterator[str]:
        """See `EvictionPolicy.candidates`."""
        return iter(self._order)
