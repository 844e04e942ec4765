"""Greedy dual size with frequency: seconds saved per byte."""

from __future__ import annotations

from collections.abc import Iterator

from sortedcontainers import SortedKeyList

from semshare_agents.evict.base import Entry, EvictionPolicy, Use


class GDSF(EvictionPolicy):
    """The entry whose bytes save the fewest seconds goes first (Cherkasova 1998).

    Worth is uses times seconds saved per byte, plus the worth of what went last when the entry was used, so that old
    fame wears off. Deep tokens are dearer to compute than those at a turn's head, because they see more keys. Of equals
    the one whose last use is longest ago goes first.
    """

    def __init__(self) -> None:
        self._age = 0.0
        self._calls = 0
        self._entries: dict[str, tuple[float, int]] = {}
        self._rank: dict[str, tuple[float, int]] = {}
        self._order: SortedKeyList[str, tuple[float, int]] = SortedKeyList(key=self._rank.__getitem__)

    def added(self, entry: Entry, use: Use) -> None:
        """See `EvictionPolicy.added`."""
        self._entries.setdefault(entry.key, (entry.seconds_per_byte, 0))
        self.used(entry.key, use)

    def used(self, key: str, use: Use) -> None:
        """See `EvictionPolicy.used`."""
        if key not in self._entries:
            return
        if key in self._rank:
            self._order.remove(key)
        density, uses = self._entries[key]
        self._entries[key] = density, uses + 1
        self._calls += 1
        self._rank[key] = self._age + (uses + 1) * density, self._calls
        self._order.add(key)

    def removed(self, key: str) -> None:
        """See `EvictionPolicy.removed`."""
        if self._entries.pop(key, None) is None:
            return
        if self._order[0] == key:
            self._age = self._rank[key][0]
        self._order.remove(key)
        del self._rank[key]

    def candidates(self, at: float) -> Iterator[str]:
        """See `EvictionPolicy.candidates`."""
        return iter(self._order)
