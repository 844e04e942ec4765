"""Tiers: from fast to durable, where blocks are put, found and handed down."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import replace

from semshare_agents.errors import CorruptBlockError, StoreError
from semshare_agents.evict.base import Entry, Use
from semshare_agents.kv.layout import KV
from semshare_agents.kv.packing import Packed, packing_of
from semshare_agents.store.base import BlockInfo
from semshare_agents.store.holds import Leases, Pins
from semshare_agents.store.loaded import NO_OWNER, Costs, Loaded, Owner, Read, Waiting
from semshare_agents.store.tier import ELSEWHERE, Eviction, Tier

log = logging.getLogger(__name__)

READERS = 4
MOST_FORGOTTEN = 100_000
"""Keys that are remembered, so that a block on its way between tiers does not outlive its forgetting."""


def _unpacked(packed: Packed) -> KV:
    return packing_of(packed).unpack(packed)


def _drained(waiting: deque[Eviction]) -> Iterator[Eviction]:
    with suppress(IndexError):  # another thread may take the last one
        while True:
            yield waiting.popleft()


class Tiers:
    """All tiers, fastest first.

    A block that a tier lets go moves to the next slower one, unless one below has it; one that is read from a slow tier
    moves up, in the background. The slowest tier keeps pinned blocks; a faster one lets them go once it has them. What
    waits for its file stays in the faster tier, within that tier's budget, until the file is written or was refused.

    Args:
        tiers: At least one tier.
        leases: The leases their tiers respect.

    Attributes:
        pins: What is pinned.
        costs: What blocks are worth, and who learns how fast they are read; None where nobody knows.
    """

    def __init__(self, tiers: Sequence[Tier], leases: Leases):
        self.tiers = tuple(tiers)
        self.leases = leases
        self.pins = Pins()
        for tier in self.tiers[:-1]:
            tier.pinned = self._has_to_stay
        self.slowest.pinned = self.pins.hold
        self.costs: Costs | None = None
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="semshare-read")
        self._promoting: set[Future[None]] = set()
        self._evictions: deque[Eviction] = deque()
        self._forgotten: dict[str, None] = {}
        self._unwritten: set[str] = set()

    def _has_to_stay(self, key: str, at: float) -> bool:
        """Whether a tier above the slowest must not let a block go."""
        return key in self._unwritten or (self.pins.hold(key, at) and not self.slowest.has(key))

    @property
    def durable(self) -> Tier | None:
        """The tier that outlives the process."""
        return next((t for t in self.tiers if t.store.durable), None)

    @property
    def fast(self) -> Tier | None:
        """The fastest tier that does not outlive the process."""
        return next((t for t in self.tiers if not t.store.durable), None)

    @property
    def slowest(self) -> Tier:
        """The tier that keeps what is pinned."""
        return self.tiers[-1]

    def load(self, infos: Sequence[BlockInfo], owner: Owner = NO_OWNER) -> Loaded:
        """Read blocks from the fastest tier that has each of them. Damaged blocks are missing, never served."""
        fast = self.fast
        quick = {i.key: b for i in infos if fast is not None and (b := self._quick(fast, i)) is not None}
        rest = [i for i in infos if i.key not in quick]
        found: dict[str, KV] = {}
        missing: dict[str, str] = {}
        unreadable: set[str] = set()
        rising: list[tuple[Tier, BlockInfo, Packed]] = []
        reads = list(self._readers.map(self._slow, rest))
        self._tell(reads)
        for info, read in zip(rest, reads, strict=True):
            if read.kv is None or read.packed is None or read.tier is None:
                missing[info.key] = read.reason
                unreadable |= {info.key} if read.there else set()
            else:
                found[info.key] = read.kv
                rising.append((read.tier, info, read.packed))
        found |= zip(quick, self._readers.map(_unpacked, quick.values()), strict=True)
        # What comes first in a turn counts as used last: nothing after it is of use without it.
        self.touch([i.key for i in reversed(infos) if i.key in found], owner)
        self._promote_later(rising, owner)
        return Loaded(found, missing, frozenset(unreadable))

    def _tell(self, reads: Sequence[Read]) -> None:
        """Say how fast the durable tier was; the wait for readers that were busy with other loads does not count."""
        durable = [read for read in reads if read.kv is not None and read.tier is not None and read.tier.store.durable]
        if durable and self.costs is not None:
            size = sum(read.kv.nbytes for read in durable if read.kv is not None)
            self.costs.saw_disk(size, max(read.ended for read in durable) - min(read.began for read in durable))

    @staticmethod
    def _quick(tier: Tier, info: BlockInfo) -> Packed | None:
        try:
            return tier.get(info) if info.key in tier else None
        except StoreError:
            return None

    def _slow(self, info: BlockInfo) -> Read:
        """A block, or why there is none and whether it may be there later."""
        reason, there, began = "gone from every tier", False, time.perf_counter()
        for tier in self.tiers:
            try:
                packed = tier.get(info)
            except StoreError as e:
                reason, there = str(e), there or not isinstance(e, CorruptBlockError)
                continue
            if packed is not None:
                kv = _unpacked(packed)
                return Read("", True, kv, packed, tier, began, time.perf_counter())
        return Read(reason, there)

    def touch(self, keys: Sequence[str], owner: Owner) -> None:
        """Blocks were used; the last one counts as used last."""
        for tier in self.tiers:
            tier.touch(keys, owner.use(tier.clock()))

    def _promote_later(self, blocks: Sequence[tuple[Tier, BlockInfo, Packed]], owner: Owner) -> None:
        """Copy blocks up, when what waits for them has them: deepest first, so that heads count as used last."""
        if blocks and self.fast is not None:
            task = self._readers.submit(self._promote, self.fast, blocks[::-1], owner)
            self._promoting.add(task)
            task.add_done_callback(self._promoting.discard)

    def _promote(self, fast: Tier, blocks: Sequence[tuple[Tier, BlockInfo, Packed]], owner: Owner) -> None:
        for tier, info, packed in blocks:
            entry = tier.entry(info.key)
            if tier is fast or entry is None:
                continue
            entry = replace(entry, size_bytes=fast.store.size_bytes(packed))
            try:
                self._put(fast, info, packed, entry, owner.use(fast.clock()))
            except StoreError as e:
                log.warning("a block stays on %s: %s", tier.name, e)

    def settle(self) -> None:
        """Wait until what was read has moved up."""
        wait(list(self._promoting))

    def keep_fast(
        self,
        info: BlockInfo,
        kv: KV | Packed,
        depth: int,
        owner: Owner = NO_OWNER,
        *,
        until_written: bool = False,
    ) -> bool:
        """Put a block into the first tier with room that does not outlive the process; whether one keeps it.

        Args:
            info: Names it.
            kv: The block.
            depth: Where its first token lies in its turn.
            owner: Whose it is.
            until_written: Whether it has to stay there until `written`, for the durable tier that will have it.

        Raises:
            StoreError: it cannot be kept.
        """
        if until_written and self.durable is not None:
            self._unwritten.add(info.key)
        kept = False
        try:
            kept = any(not t.store.durable and self._keep(t, info, kv, depth, owner) for t in self.tiers)
        finally:
            if not kept:
                self.written([info.key])
        return kept

    def written(self, keys: Iterable[str]) -> None:
        """Blocks need not wait for their files any longer: those are there, or cannot be written now."""
        self._unwritten.difference_update(keys)

    def in_memory(self, info: BlockInfo) -> Packed | None:
        """A block as a tier that does not outlive the process keeps it; None where none has it."""
        fast = (t.store.get_packed(info) for t in self.tiers if not t.store.durable)
        return next((packed for packed in fast if packed is not None), None)

    def keep_durable(self, info: BlockInfo, kv: KV | Packed, depth: int, owner: Owner = NO_OWNER) -> bool:
        """Put a block into the durable tier; whether it is kept.

        Raises:
            StoreError: it cannot be written.
        """
        return self.durable is not None and self._keep(self.durable, info, kv, depth, owner)

    def write(self, waiting: Mapping[str, Waiting]) -> tuple[list[str], dict[str, Waiting]]:
        """Put blocks that RAM has into the durable tier; where one cannot be written, the rest waits for another time.

        What waits for a disk that fails may be let go: RAM then works as if there were no disk.

        Args:
            waiting: The blocks by key, with where their first token lies in their turn, and whose they are.

        Returns:
            Keys of those that are written, and those that wait.
        """
        written: list[str] = []
        delayed: dict[str, Waiting] = {}
        for key, (info, depth, owner) in waiting.items():
            kv = self.in_memory(info)
            if kv is not None and not delayed:
                try:
                    written += [key] if self.keep_durable(info, kv, depth, owner) else []
                    kv = None
                except StoreError as e:
                    log.warning("blocks stay in memory until they can be written: %s", e)
            if kv is not None:
                delayed[key] = waiting[key]
            self.written([key])
        return written, delayed

    def seconds(self, depth: int, tokens: int, size_bytes: int) -> float:
        """What computing a block would take longer than loading it; 0.0 where nobody knows."""
        return 0.0 if self.costs is None else self.costs.block_seconds(depth, tokens, size_bytes)

    def _keep(self, tier: Tier, info: BlockInfo, kv: KV | Packed, depth: int, owner: Owner) -> bool:
        packed = tier.store.packed(kv)
        size = tier.store.size_bytes(packed)
        entry = Entry(info.key, size, depth, info.tokens, owner.tenant, self.seconds(depth, info.tokens, size))
        return self._put(tier, info, packed, entry, owner.use(tier.clock()))

    def _put(self, tier: Tier, info: BlockInfo, packed: Packed, entry: Entry, use: Use) -> bool:
        try:
            with tier.store.held():
                if not tier.reserve(entry, use):
                    return False
                size = tier.store.put(info, packed)
                if not tier.commit(info.key, size):
                    tier.store.delete(info.key)  # forgotten meanwhile
        except StoreError:
            tier.failures["write"] += 1
            tier.commit(info.key)
            with suppress(StoreError):
                tier.forget([info.key])
            raise
        finally:
            self._demote_evicted(tier)
        if info.key in self._forgotten:  # on its way
            tier.forget([info.key])
            return False
        return True

    def _demote_evicted(self, tier: Tier) -> None:
        """Let slower tiers have what a tier let go; what expired is not wanted there."""
        below = self.tiers[self.tiers.index(tier) + 1 :]
        for gone in _drained(tier.let_go):
            if gone.reason == ELSEWHERE:
                # Its row is gone with its file: what still had it must not bring it back.
                self.forget([gone.key])
                continue
            block = gone.block
            if block is not None and gone.reason != "ttl" and not any(gone.key in t for t in below):
                for lower in below:
                    if self._demote(lower, *block, gone):
                        break
            self._evictions.append(replace(gone, block=None))

    def _demote(self, tier: Tier, info: BlockInfo, packed: Packed, gone: Eviction) -> bool:
        entry = replace(gone.entry, size_bytes=tier.store.size_bytes(packed))
        try:
            return self._put(tier, info, packed, entry, Use(tier.clock()))
        except StoreError as e:
            log.warning("a block that had to leave %s is lost: %s", gone.tier, e)
            return False

    def trim(self) -> None:
        """Hold every tier to lowered budgets and quotas."""
        for tier in self.tiers:
            tier.trim()
            self._demote_evicted(tier)

    def sweep(self) -> None:
        """Let go what expired, and make room above the watermarks, so that storing need not wait for it."""
        for tier in self.tiers:
            try:
                tier.sweep()
            except StoreError as e:
                tier.failures["write"] += 1
                log.warning("%s keeps what should go: %s", tier.name, e)
            self._demote_evicted(tier)

    def evictions(self) -> list[Eviction]:
        """What tiers let go since this was last asked; a block may still be in another tier."""
        return list(_drained(self._evictions))

    def taken(self, keys: Sequence[str]) -> list[str]:
        """Those of keys that were put into the durable tier and are there no longer, whoever let them go.

        Raises:
            StoreError: the store cannot be looked at.
        """
        tier = self.durable
        if tier is None or not keys:
            return []
        tier.look()
        self._demote_evicted(tier)
        return [key for key in keys if key not in tier]

    def anywhere(self, key: str) -> bool:
        """Whether some tier has a block on its books."""
        return any(key in tier for tier in self.tiers)

    def forget(self, keys: Iterable[str]) -> None:
        """Remove blocks from every tier."""
        gone = list(keys)
        self.written(gone)
        self._forgotten |= dict.fromkeys(gone)
        for tier in self.tiers:
            tier.forget(gone)
        for key in list(self._forgotten)[: max(0, len(self._forgotten) - MOST_FORGOTTEN)]:
            self._forgotten.pop(key, None)

    def close(self) -> None:
        """Stop the reader threads."""
        self._readers.shutdown(wait=True)
