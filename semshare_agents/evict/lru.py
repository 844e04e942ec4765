"""Least recently used."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator

from semshare_agents.evict.base import Entry, EvictionPolicy, Use


class LRU(EvictionPolicy):
    """The entry whose last use is longest ago goes first."""

    def __init__(self) -> None:
        self._order: OrderedDict[str, None] = OrderedDict()

    def added(self, entry: Entry, use: Use) -> None:
        """See `EvictionPolicy.added`."""
        self._order[entry.key] = None
        self._order.move_to_end(entry.key)

    def used(self, key: str, use: Use) -> None:
        """See `EvictionPolicy.used`."""
        if key in self._order:
            self._order.move_to_end(key)

    def removed(self, key: str) -> None:
        """See `EvictionPolicy.removed`."""
        self._order.pop(key, None)

    def candidates(self, at: float) -> Iterator[str]:
        """See `EvictionPolicy.candidates`."""
        return iter(self._order)
