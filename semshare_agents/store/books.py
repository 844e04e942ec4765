"""What a tier has on its books: blocks, their bytes by tenant, and the policy that ranks them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from threading import Lock

from semshare_agents.evict.base import Entry, EvictionPolicy, Use


class Books:
    """Entries and their sums; whoever changes them holds the lock, whoever reads takes none.

    Args:
        policy: Who goes first.

    Attributes:
        lock: Held while they change.
        entries: Blocks by key.
        coming: Keys of those that are reserved and not in the store yet.
        used_bytes: Their bytes.
        tenant_bytes: The same by tenant.
    """

    def __init__(self, policy: EvictionPolicy):
        self.policy = policy
        self.lock = Lock()
        self.entries: dict[str, Entry] = {}
        self.coming: set[str] = set()
        self.used_bytes = 0
        self.tenant_bytes: Counter[str] = Counter()

    def add(self, entry: Entry, use: Use) -> None:
        """Account for a block."""
        self.entries[entry.key] = entry
        self._count(entry.tenant, entry.size_bytes)
        self.policy.added(entry, use)

    def drop(self, key: str) -> Entry | None:
        """Forget a block; returns what was known of it."""
        entry = self.entries.pop(key, None)
        if entry is not None:
            self._count(entry.tenant, -entry.size_bytes)
            self.policy.removed(key)
        return entry

    def resize(self, key: str, size_bytes: int) -> None:
        """A block takes so many bytes; the policy goes by what was reserved, and the difference is a header's."""
        entry = self.entries[key]
        self.entries[key] = replace(entry, size_bytes=size_bytes)
        self._count(entry.tenant, size_bytes - entry.size_bytes)

    def _count(self, tenant: str, size_bytes: int) -> None:
        self.used_bytes += size_bytes
        self.tenant_bytes[tenant] += size_bytes

    def victims(
        self,
        missing_bytes: int,
        at: float,
        stays: Callable[[str, float], bool],
        tenant: str | None = None,
        besides: Iterable[str] = (),
    ) -> tuple[list[str], int]:
        """The most dispensable blocks that free so many bytes, and how many bytes cannot be freed.

        Args:
            missing_bytes: How many have to be freed.
            at: Now, in seconds of the tier's clock.
            stays: Whether a block may not go at a time.
            tenant: Whose blocks may go; None for anybody's.
            besides: Blocks that go anyway.
        """
        victims: list[str] = []
        if missing_bytes <= 0:
            return victims, missing_bytes
        other = set(besides)
        for key in self.policy.candidates(at):
            whose = self.entries[key].tenant
            if key in other or (tenant is not None and whose != tenant) or stays(key, at):
                continue
            victims.append(key)
            missing_bytes -= self.entries[key].size_bytes
            if missing_bytes <= 0:
                break
        return victims, missing_bytes
