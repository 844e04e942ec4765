"""Tiers: stores with budgets, policies and leases, from fast to durable."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from threading import Lock

import torch

from semshare_agents.errors import CorruptBlockError, StoreError
from semshare_agents.evict.base import Entry, EvictionPolicy
from semshare_agents.store.base import BlockInfo, BlockStore
from semshare_agents.store.packing import Packed, packing_of

READERS = 4


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


class Tier:
    """One store with its byte budget and eviction policy.

    The budget holds at every moment: room is made before a block is put, and a block for which no room can be made
    (everything else is leased, or it is larger than the budget) is refused.

    Args:
        store: Where blocks go.
        budget_bytes: Most bytes it may hold; positive.
        policy: Who goes first.
        leases: Blocks in use.

    Attributes:
        evicted: Blocks evicted so far, by reason.
        evicted_bytes: Their bytes.
        failures: What its store could not do so far: `write`, `read` or `damaged`.
    """

    def __init__(self, store: BlockStore, budget_bytes: int, policy: EvictionPolicy, leases: Leases):
        self.store = store
        self.budget_bytes = budget_bytes
        self._policy = policy
        self._leases = leases
        self._lock = Lock()
        self._sizes: dict[str, int] = {}
        self._used_bytes = 0
        self.evicted: Counter[str] = Counter()
        self.evicted_bytes: Counter[str] = Counter()
        self.failures: Counter[str] = Counter()
        for key, size in store.entries():
            self._account(Entry(key, size))

    @property
    def name(self) -> str:
        """The store's name."""
        return self.store.name

    @property
    def used_bytes(self) -> int:
        """Bytes accounted for."""
        return self._used_bytes

    def __len__(self) -> int:
        return len(self._sizes)

    def __contains__(self, key: object) -> bool:
        return key in self._sizes

    def _account(self, entry: Entry) -> None:
        self._sizes[entry.key] = entry.size_bytes
        self._used_bytes += entry.size_bytes
        self._policy.added(entry)

    def reserve(self, entry: Entry) -> list[str] | None:
        """Make room for a block and account for it.

        Returns:
            Keys that had to go (the caller deletes them), or None where there is no room for this one.
        """
        with self._lock:
            if entry.key in self._sizes:
                self._policy.used(entry.key)
                return []
            victims, missing = self._victims(self._used_bytes + entry.size_bytes - self.budget_bytes)
            if missing > 0:
                return None
            self._evict(victims, "budget")
            self._account(entry)
            return victims

    def _victims(self, missing_bytes: int) -> tuple[list[str], int]:
        """The most dispensable blocks that free so many bytes, and how many bytes leases keep them from freeing."""
        victims: list[str] = []
        for key in self._policy.candidates():
            if missing_bytes <= 0:
                break
            if key not in self._leases:
                victims.append(key)
                missing_bytes -= self._sizes[key]
        return victims, missing_bytes

    def _evict(self, victims: Iterable[str], reason: str) -> None:
        for key in victims:
            self.evicted[reason] += 1
            self.evicted_bytes[reason] += self._sizes[key]
            self._drop(key)

    def _drop(self, key: str) -> None:
        self._used_bytes -= self._sizes.pop(key, 0)
        self._policy.removed(key)

    def trim(self) -> list[str]:
        """Drop from the books what exceeds the budget (after it was lowered); the caller deletes the keys returned."""
        with self._lock:
            victims, _ = self._victims(self._used_bytes - self.budget_bytes)
            self._evict(victims, "lowered-budget")
            return victims

    def forget(self, keys: Iterable[str]) -> None:
        """Take blocks off the books and out of the store."""
        for key in keys:
            with self._lock:
                self._drop(key)
            self.store.delete(key)

    def get(self, info: BlockInfo) -> Packed | None:
        """The block as it is kept, or None; a block that is gone or damaged is forgotten.

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
        with self._lock:
            if packed is None:
                self._drop(info.key)
            else:
                self._policy.used(info.key)
        return packed


def _unpacked(packed: Packed) -> torch.Tensor:
    return packing_of(packed).unpack(packed)


@dataclass(frozen=True)
class Loaded:
    """Blocks read from the tiers.

    Attributes:
        kv: Blocks by key, each `(layers, 2, kv_heads, tokens, head_dim)`.
        missing: Keys that no tier could serve, with the reason.
        slow: Keys that came from a tier below the first.
        unreadable: Those of `missing` that are there but could not be read now.
    """

    kv: Mapping[str, torch.Tensor]
    missing: Mapping[str, str]
    slow: tuple[str, ...] = ()
    unreadable: frozenset[str] = frozenset()


class Tiers:
    """All tiers, fastest first.

    Args:
        tiers: At least one tier.
        leases: The leases their tiers respect.
    """

    def __init__(self, tiers: Sequence[Tier], leases: Leases):
        self.tiers = tuple(tiers)
        self.leases = leases
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="semshare-read")

    @property
    def durable(self) -> Tier | None:
        """The tier that outlives the process."""
        return next((t for t in self.tiers if t.store.durable), None)

    @property
    def fast(self) -> Tier | None:
        """The fastest tier that does not outlive the process."""
        return next((t for t in self.tiers if not t.store.durable), None)

    def load(self, infos: Sequence[BlockInfo]) -> Loaded:
        """Read blocks from the fastest tier that has each of them. Damaged blocks are missing, never served."""
        fast = self.fast
        quick = {i.key: b for i in infos if fast is not None and (b := self._quick(fast, i)) is not None}
        rest = [i for i in infos if i.key not in quick]
        found: dict[str, torch.Tensor] = {}
        missing: dict[str, str] = {}
        unreadable: set[str] = set()
        for info, (kv, reason, there) in zip(rest, self._readers.map(self._slow, rest), strict=True):
            if kv is None:
                missing[info.key] = reason
                unreadable |= {info.key} if there else set()
            else:
                found[info.key] = kv
        slow = tuple(found)
        found |= zip(quick, self._readers.map(_unpacked, quick.values()), strict=True)
        return Loaded(found, missing, slow, frozenset(unreadable))

    @staticmethod
    def _quick(tier: Tier, info: BlockInfo) -> Packed | None:
        try:
            return tier.get(info) if info.key in tier else None
        except StoreError:
            return None

    def _slow(self, info: BlockInfo) -> tuple[torch.Tensor | None, str, bool]:
        """A block, or why there is none and whether it may be there later."""
        reason, there = "gone from every tier", False
        for tier in self.tiers:
            try:
                packed = tier.get(info)
            except StoreError as e:
                reason, there = str(e), there or not isinstance(e, CorruptBlockError)
                continue
            if packed is not None:
                return _unpacked(packed), "", True
        return None, reason, there

    def keep_fast(self, info: BlockInfo, kv: torch.Tensor | Packed, depth: int) -> tuple[bool, list[str]]:
        """Put a block into the first tier with room that does not outlive the process.

        Returns:
            Whether such a tier keeps it, and the evicted keys that no tier has any more.
        """
        for tier in self.tiers:
            if not tier.store.durable and (victims := self._put(tier, info, kv, depth)) is not None:
                return True, [key for key in victims if not self.anywhere(key)]
        return False, []

    def keep_durable(self, info: BlockInfo, kv: torch.Tensor | Packed, depth: int) -> tuple[bool, list[str]]:
        """Put a block into the durable tier.

        Returns:
            Whether it is kept, and the evicted keys that no tier has any more.

        Raises:
            StoreError: it cannot be written.
        """
        victims = None if self.durable is None else self._put(self.durable, info, kv, depth)
        return victims is not None, [key for key in victims or () if not self.anywhere(key)]

    @staticmethod
    def _put(tier: Tier, info: BlockInfo, kv: torch.Tensor | Packed, depth: int) -> list[str] | None:
        packed = tier.store.packed(kv)
        size = tier.store.size_bytes(packed)
        victims = tier.reserve(Entry(info.key, size, depth))
        if victims is None:
            return None
        try:
            for key in victims:
                tier.store.delete(key)
            tier.store.put(info, packed)
        except StoreError:
            tier.failures["write"] += 1
            with suppress(StoreError):
                tier.forget([info.key])
            raise
        return victims

    def anywhere(self, key: str) -> bool:
        """Whether some tier has a block on its books."""
        return any(key in tier for tier in self.tiers)

    def forget(self, keys: Iterable[str]) -> None:
        """Remove blocks from every tier."""
        gone = list(keys)
        for tier in self.tiers:
            tier.forget(gone)

    def close(self) -> None:
        """Stop the reader threads."""
        self._readers.shutdown(wait=True)
