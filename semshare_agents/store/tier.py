"""One store with its budget, its eviction policy and what it must not let go."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from semshare_agents.errors import CorruptBlockError, StoreError
from semshare_agents.evict.base import NOBODY, Entry, EvictionPolicy, Use
from semshare_agents.kv.packing import Packed
from semshare_agents.store.base import BlockInfo, BlockStore
from semshare_agents.store.books import Books
from semshare_agents.store.holds import Leases, Limits

ELSEWHERE = "elsewhere"


@dataclass(frozen=True)
class Eviction:
    """A block that a tier let go.

    Attributes:
        key: The block.
        tier: Name of the tier.
        reason: `budget`, `quota`, `watermark`, `ttl` or `lowered-budget`; `ELSEWHERE` where another process took it.
        entry: What was known of it.
        block: It, where it can go to a slower tier.
    """

    key: str
    tier: str
    reason: str
    entry: Entry
    block: tuple[BlockInfo, Packed] | None = None


@dataclass(frozen=True)
class Counts:
    """What happened in a tier so far.

    Attributes:
        evicted: Blocks evicted, by reason.
        evicted_bytes: Their bytes.
        failures: What its store could not do: `write`, `read` or `damaged`.
    """

    evicted: Counter[str] = field(default_factory=Counter)
    evicted_bytes: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)


class Tier:
    """One store with its byte budget and eviction policy.

    The budget holds at every moment, in the books and in the store: room is made before a block is put, and a block for
    which no room can be made (everything else has to stay, or it is larger than the budget) is refused. Where several
    processes share the store the budget holds for their sum, as long as `store.held()` lasts from `reserve` to
    `commit`; a tenant's quota and what policies know count what this process stored or found described.

    Args:
        store: Where blocks go.
        budget_bytes: Most bytes it may hold; positive.
        policy: Who goes first.
        leases: Blocks that have to stay.
        limits: Watermarks and quota.
        clock: Seconds since the epoch.

    Attributes:
        pinned: Whether a block is pinned here at a time.
        let_go: Blocks evicted that nobody asked for yet.
        counts: What happened so far.
    """

    def __init__(
        self,
        store: BlockStore,
        budget_bytes: int,
        policy: EvictionPolicy,
        leases: Leases,
        limits: Limits | None = None,
        clock: Callable[[], float] = time.time,
    ):
        self.store = store
        self.budget_bytes = budget_bytes
        self.limits = limits or Limits()
        self.clock = clock
        self.pinned: Callable[[str, float], bool] = lambda key, at: False
        self.let_go: deque[Eviction] = deque()
        self.counts = Counts()
        self._leases = leases
        self._books = Books(policy)
        with self._changing():
            for key, size in store.entries():
                if key not in self._books.entries:
                    self._books.add(Entry(key, size), Use(clock()))

    @property
    def name(self) -> str:
        """The store's name."""
        return self.store.name

    @property
    def used_bytes(self) -> int:
        """Bytes accounted for."""
        return self._books.used_bytes

    @property
    def evicted(self) -> Counter[str]:
        """Blocks evicted so far, by reason."""
        return self.counts.evicted

    @property
    def evicted_bytes(self) -> Counter[str]:
        """Their bytes."""
        return self.counts.evicted_bytes

    @property
    def failures(self) -> Counter[str]:
        """What its store could not do so far: `write`, `read` or `damaged`."""
        return self.counts.failures

    def tenant_bytes(self, tenant: str) -> int:
        """Bytes of one tenant."""
        return self._books.tenant_bytes[tenant]

    def __len__(self) -> int:
        return len(self._books.entries)

    def __contains__(self, key: object) -> bool:
        return key in self._books.entries

    def has(self, key: str) -> bool:
        """Whether the store has a block, and is not only about to; takes no lock."""
        return key in self._books.entries and key not in self._books.coming

    def size_of(self, key: str) -> int | None:
        """Bytes of a block; None where it is not here."""
        entry = self._books.entries.get(key)
        return None if entry is None else entry.size_bytes

    def entry(self, key: str) -> Entry | None:
        """What is known of a block."""
        return self._books.entries.get(key)

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """The books, up to date, while nobody changes them or the store. Reading never waits for other processes."""
        with self.store.held(), self._books.lock:
            for key, size in self.store.news().items():
                known = self._books.entries.get(key)
                if known is None and size is not None:
                    self._books.add(Entry(key, size), Use(self.clock()))
                elif known is not None and size is None:
                    self._books.drop(key)
                    self.let_go.append(Eviction(key, self.name, ELSEWHERE, known))
            yield

    def look(self) -> None:
        """Learn what other processes changed.

        Raises:
            StoreError: the store cannot be looked at.
        """
        with self._changing():
            pass

    def describe(
        self, key: str, depth: int, tokens: int, tenant: str, seconds: Callable[[int, int, int], float], use: Use
    ) -> None:
        """Tell more of a block that was found in the store; others are ignored.

        Args:
            key: The block.
            depth: Where its first token lies in its turn.
            tokens: Tokens in it.
            tenant: Whose it is.
            seconds: What computing it would take longer than loading it: `(depth, tokens, size_bytes)`.
            use: Its last use.
        """
        with self._books.lock:
            known = self._books.entries.get(key)
            if known is not None:
                size = known.size_bytes
                self._books.drop(key)
                self._books.add(Entry(key, size, depth, tokens, tenant, seconds(depth, tokens, size)), use)

    def reserve(self, entry: Entry, use: Use = NOBODY) -> bool:
        """Make room for a block and account for it; False where there is no room and nothing was changed.

        It stays until `commit` is called, once the store has it or never will.

        Raises:
            StoreError: what had to go cannot be deleted.
        """
        with self._changing():
            if entry.key in self._books.entries:
                self._books.policy.used(entry.key, use)
                return True
            quota, size = self.limits.tenant_bytes, entry.size_bytes
            over = 0 if quota is None else self._books.tenant_bytes[entry.tenant] + size - quota
            own, short = self._victims(over, tenant=entry.tenant)
            freed = sum(self._books.entries[key].size_bytes for key in own)
            victims, missing = self._victims(self._books.used_bytes - freed + size - self.budget_bytes, besides=own)
            if short > 0 or missing > 0:
                return False
            self._evict(own, "quota")
            self._evict(victims, "budget")
            self._books.add(entry, use)
            self._books.coming.add(entry.key)
            return True

    def commit(self, key: str, size_bytes: int | None = None) -> bool:
        """A block that was reserved is in the store, or never will be; whether it is still wanted there.

        Args:
            key: The block.
            size_bytes: What it takes, where that is known; no more than was reserved.
        """
        with self._books.lock:
            self._books.coming.discard(key)
            entry = self._books.entries.get(key)
            if entry is not None and size_bytes is not None:
                self._books.resize(key, size_bytes)
            return entry is not None

    def _victims(
        self, missing_bytes: int, tenant: str | None = None, besides: Iterable[str] = ()
    ) -> tuple[list[str], int]:
        return self._books.victims(missing_bytes, self.clock(), self._stays, tenant, besides)

    def _stays(self, key: str, at: float) -> bool:
        return key in self._books.coming or key in self._leases or self.pinned(key, at)

    def _evict(self, victims: Iterable[str], reason: str) -> None:
        for key in victims:
            block = self.store.take(key)
            entry = self._books.entries[key]
            self.evicted[reason] += 1
            self.evicted_bytes[reason] += entry.size_bytes
            self.let_go.append(Eviction(key, self.name, reason, entry, block))
            self._books.drop(key)

    def trim(self) -> None:
        """Let go what exceeds the budget or a quota, after they were lowered.

        Raises:
            StoreError: what had to go cannot be deleted.
        """
        with self._changing():
            quota = self.limits.tenant_bytes
            for tenant, used in list(self._books.tenant_bytes.items()) if quota is not None else ():
                self._evict(self._victims(used - (quota or 0), tenant=tenant)[0], "quota")
            self._evict(self._victims(self._books.used_bytes - self.budget_bytes)[0], "lowered-budget")

    def sweep(self) -> None:
        """Let go what expired and, above the high watermark, what is over the low one.

        Raises:
            StoreError: what had to go cannot be deleted.
        """
        with self._changing():
            at = self.clock()
            expired = [key for key in self._books.policy.expired(at) if not self._stays(key, at)]
            self._evict(expired, "ttl")
            if self._books.used_bytes > self.limits.high * self.budget_bytes:
                over = self._books.used_bytes - int(self.limits.low * self.budget_bytes)
                self._evict(self._victims(over)[0], "watermark")

    def forget(self, keys: Iterable[str]) -> None:
        """Take blocks off the books and out of the store."""
        for key in keys:
            with self._changing():  # together: room in the books is room in the store
                self._books.drop(key)
                self.store.delete(key)

    def touch(self, keys: Iterable[str], use: Use) -> None:
        """Blocks were used; the last one counts as used last."""
        with self._books.lock:
            for key in keys:
                self._books.policy.used(key, use)

    def get(self, info: BlockInfo) -> Packed | None:
        """The block as it is kept, or None; a block that is gone or damaged is forgotten. Reading is no use: `touch`.

        Raises:
            CorruptBlockError: it is damaged, or not what the registry takes it for.
            StoreError: it cannot be read now.
        """
        try:
            packed = self.store.get_packed(info)
            if packed is not None and (problem := info.refuse(packed)):
                raise CorruptBlockError(f"block {info.key} {problem}")
        except CorruptBlockError:
            self.failures["damaged"] += 1
            self.forget([info.key])
            raise
        except StoreError:
            self.failures["read"] += 1
            raise
        if packed is None:
            with self._books.lock:
                # What is on its way, or came meanwhile, keeps its room.
                if info.key not in self._books.coming and self.store.get_packed(info) is None:
                    self._books.drop(info.key)
        return packed
