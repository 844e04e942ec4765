"""The best that any policy could do with a trace."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator, Sequence

from sortedcontainers import SortedKeyList

from semshare_agents.bench.traces import Visit
from semshare_agents.evict import Entry, EvictionPolicy, Use


class Clairvoyant(EvictionPolicy):
    """The entry whose next use is furthest ahead goes first, as only a replay can know it (Belady 1966).

    Of entries that are asked for next by the same prompt the deepest goes first, since it is of no use without the
    others.

    Args:
        trace: What will be asked for.
        block_tokens: Tokens of a block.
    """

    def __init__(self, trace: Sequence[Visit], block_tokens: int) -> None:
        self._asked: defaultdict[str, list[float]] = defaultdict(list)
        for visit in trace:
            for key in visit.blocks[: visit.prompt_tokens // block_tokens]:
                self._asked[key].append(visit.at)
        self._depth: dict[str, int] = {}
        self._rank: dict[str, tuple[float, int]] = {}
        self._order: SortedKeyList[str, tuple[float, int]] = SortedKeyList(key=self._rank.__getitem__)

    def added(self, entry: Entry, use: Use) -> None:
        """See `EvictionPolicy.added`."""
        self._depth[entry.key] = entry.depth
        self.used(entry.key, use)

    def used(self, key: str, use: Use) -> None:
        """See `EvictionPolicy.used`."""
        if key not in self._depth:
            return
        if key in self._rank:
            self._order.remove(key)
        times = self._asked.get(key, [])
        later = bisect_right(times, use.at)
        self._rank[key] = -(times[later] if later < len(times) else math.inf), -self._depth[key]
        self._order.add(key)

    def removed(self, key: str) -> None:
        """See `EvictionPolicy.removed`."""
        if self._depth.pop(key, None) is not None:
            self._order.remove(key)
            del self._rank[key]

    def candidates(self, at: float) -> Iterator[str]:
        """See `EvictionPolicy.candidates`."""
        return iter(self._order)
