"""Least frequently used, with ageing."""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Iterator

from semshare_agents.evict.base import Entry, EvictionPolicy, Use


class LFU(EvictionPolicy):
    """The entry that is used least goes first; of equals the one whose last use is longest ago.

    Ages dynamically (LFU-DA, Arlitt et al. 2000): an entry's worth is its uses plus the worth of what went last when it
    was used, so that what was popular long ago does not stay for ever.
    """

    def __init__(self) -> None:
        self._age = 0
        self._uses: dict[str, int] = {}
        self._worth: dict[str, int] = {}
        self._by_worth: defaultdict[int, OrderedDict[str, None]] = defaultdict(OrderedDict)

    def added(self, entry: Entry, use: Use) -> None:
        """See `EvictionPolicy.added`."""
        self._uses.setdefault(entry.key, 0)
        self.used(entry.key, use)

    def used(self, key: str, use: Use) -> None:
        """See `EvictionPolicy.used`."""
        if key not in self._uses:
            return
        self._unfile(key)
        self._uses[key] += 1
        self._worth[key] = self._age + self._uses[key]
        self._by_worth[self._worth[key]][key] = None

    def removed(self, key: str) -> None:
        """See `EvictionPolicy.removed`."""
        if self._uses.pop(key, None) is None:
            return
        worth = self._worth[key]
        if worth == min(self._by_worth):
            self._age = max(self._age, worth)
        self._unfile(key)

    def _unfile(self, key: str) -> None:
        worth = self._worth.pop(key, None)
        if worth is not None:
            self._by_worth[worth].pop(key)
            if not self._by_worth[worth]:
                del self._by_worth[worth]

    def candidates(self, at: float) -> Iterator[str]:
        """See `EvictionPolicy.candidates`."""
        for worth in sorted(self._by_worth):
            yield from self._by_worth[worth]
