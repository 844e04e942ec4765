"""Segmented least recently used."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator

from semshare_agents.evict.base import Entry, EvictionPolicy, Use

PROTECTED_SHARE = 0.8


class SLRU(EvictionPolicy):
    """What was used once goes before what was used again (Karedla et al. 1994): one long prompt sweeps nothing away.

    New entries are on probation; a use protects them. Where more than `PROTECTED_SHARE` of all entries are protected,
    the one of them whose last use is longest ago is on probation again.
    """

    def __init__(self) -> None:
        self._probation: OrderedDict[str, None] = OrderedDict()
        self._protected: OrderedDict[str, None] = OrderedDict()

    def added(self, entry: Entry, use: Use) -> None:
        """See `EvictionPolicy.added`."""
        if entry.key in self._probation or entry.key in self._protected:
            self.used(entry.key, use)
        else:
            self._probation[entry.key] = None

    def used(self, key: str, use: Use) -> None:
        """See `EvictionPolicy.used`."""
        if key in self._protected:
            self._protected.move_to_end(key)
        elif key in self._probation:
            del self._probation[key]
            self._protected[key] = None
            if len(self._protected) > PROTECTED_SHARE * (len(self._protected) + len(self._probation)):
                oldest, _ = self._protected.popitem(last=False)
                self._probation[oldest] = None

    def removed(self, key: str) -> None:
        """See `EvictionPolicy.removed`."""
        self._probation.pop(key, None)
        self._protected.pop(key, None)

    def candidates(self, at: float) -> Iterator[str]:
        """See `EvictionPolicy.candidates`."""
        yield from self._probation
        yield from self._protected
