"""Least recently used, with a time to live."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from itertools import takewhile

from semshare_agents.evict.base import Entry, EvictionPolicy, Use


class TTL(EvictionPolicy):
    """What nobody used for so long expires, however much room there is; before that the least recently used goes first.

    A clock that was set back lets entries live longer, never shorter.

    Args:
        ttl_seconds: How long an entry lives after its last use.
    """

    def __init__(self, ttl_seconds: float) -> None:
        self._ttl_seconds = ttl_seconds
        self._used_at: OrderedDict[str, float] = OrderedDict()

    def added(self, entry: Entry, use: Use) -> None:
        """See `EvictionPolicy.added`."""
        self._used_at[entry.key] = use.at
        self._used_at.move_to_end(entry.key)

    def used(self, key: str, use: Use) -> None:
        """See `EvictionPolicy.used`."""
        if key in self._used_at:
            self._used_at[key] = use.at
            self._used_at.move_to_end(key)

    def removed(self, key: str) -> None:
        """See `EvictionPolicy.removed`."""
        self._used_at.pop(key, None)

    def candidates(self, at: float) -> Iterator[str]:
        """See `EvictionPolicy.candidates`."""
        return iter(self._used_at)

    def expired(self, at: float) -> Iterable[str]:
        """See `EvictionPolicy.expired`."""
        old = takewhile(lambda item: item[1] + self._ttl_seconds <= at, self._used_at.items())
        return [key for key, _ in old]
