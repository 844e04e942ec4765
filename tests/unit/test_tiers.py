"""Budgets, leases and eviction of the tiers."""

from __future__ import annotations

import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from semshare_agents.errors import ConfigurationError, CorruptBlockError, StoreError
from semshare_agents.evict import LRU, TTL, make_policy
from semshare_agents.evict.base import NOBODY, Entry
from semshare_agents.kv.packing import Packed
from semshare_agents.store import BlockInfo, BlockStore, DeviceStore, DiskStore, MemoryStore, Tier, Tiers
from semshare_agents.store.holds import Leases, Limits
from semshare_agents.store.loaded import Owner

BLOCK_BYTES = 2 * 2 * 1 * 4 * 4 * 4


def kv(value: float = 0.0) -> torch.Tensor:
    return torch.full((2, 2, 1, 4, 4), float(value))


def info(key: str) -> BlockInfo:
    return BlockInfo(key, "f" * 64, 4)


def memory(blocks: int, leases: Leases | None = None) -> Tier:
    return Tier(MemoryStore(), blocks * BLOCK_BYTES, LRU(), leases or Leases())


def pair(tmp_path: Path, fast: int, slow: int) -> Tiers:
    leases = Leases()
    disk = Tier(DiskStore(tmp_path / "kv"), slow * 1000, LRU(), leases)
    return Tiers([memory(fast, leases), disk], leases)


def lost(tiers: Tiers) -> list[str]:
    return [gone.key for gone in tiers.evictions() if not tiers.anywhere(gone.key)]


def test_the_least_recently_used_goes_first() -> None:
    policy = LRU()
    for key in "abcd":
        policy.added(Entry(key, 1), NOBODY)
    policy.used("a", NOBODY)
    policy.added(Entry("b", 1), NOBODY)
    assert list(policy.candidates(0.0)) == ["c", "d", "a", "b"]


def test_unknown_policies_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="lru"):
        make_policy("luck")


def test_a_block_on_its_way_keeps_its_room() -> None:
    tier = memory(2)
    assert tier.reserve(Entry("a", BLOCK_BYTES))
    assert tier.get(info("a")) is None
    assert tier.used_bytes == BLOCK_BYTES
    tier.store.put(info("a"), kv())
    assert tier.commit("a")
    tier.store.delete("a")
    assert tier.get(info("a")) is None
    assert tier.used_bytes == 0


def test_room_is_made_before_a_block_comes_in() -> None:
    tiers = Tiers([memory(2)], Leases())
    for i, key in enumerate("abc"):
        assert tiers.keep_fast(info(key), kv(i), 0)
        assert lost(tiers) == (["a"] if key == "c" else [])
        assert tiers.tiers[0].used_bytes <= 2 * BLOCK_BYTES
    assert tiers.tiers[0].store.get(info("a")) is None
    assert sorted(k for k, _ in tiers.tiers[0].store.entries()) == ["b", "c"]


def test_a_read_counts_as_use() -> None:
    tiers = Tiers([memory(2)], Leases())
    tiers.keep_fast(info("a"), kv(), 0)
    tiers.keep_fast(info("b"), kv(), 0)
    assert tiers.load([info("a")]).missing == {}
    assert tiers.keep_fast(info("c"), kv(), 0)
    assert lost(tiers) == ["b"]


def test_leased_blocks_stay_and_where_all_are_leased_nothing_comes_in() -> None:
    leases = Leases()
    tiers = Tiers([memory(2, leases)], leases)
    for key in "ab":
        tiers.keep_fast(info(key), kv(), 0)
    with leases.hold(["a"]):
        assert tiers.keep_fast(info("c"), kv(), 0)
        assert lost(tiers) == ["b"]
        with leases.hold(["c", "a"]):
            assert not tiers.keep_fast(info("d"), kv(), 0)
            assert lost(tiers) == []
        assert "c" not in leases
        assert "a" in leases
    assert "a" not in leases
    assert tiers.keep_fast(info("d"), kv(), 0)
    assert lost(tiers) == ["a"]


def test_a_block_larger_than_the_budget_is_refused_and_evicts_nothing() -> None:
    tiers = Tiers([memory(1)], Leases())
    tiers.keep_fast(info("a"), kv(), 0)
    assert not tiers.keep_fast(info("b"), torch.zeros(2, 2, 1, 9, 4), 0)
    assert lost(tiers) == []
    assert tiers.anywhere("a")


def test_leases_end_with_an_error_too() -> None:
    leases = Leases()
    with pytest.raises(RuntimeError, match="boom"), leases.hold(["a", "a"]):
        raise RuntimeError("boom")
    assert "a" not in leases


def test_what_leaves_ram_is_still_on_disk(tmp_path: Path) -> None:
    tiers = pair(tmp_path, fast=1, slow=10)
    for i, key in enumerate(("aa", "bb")):
        tiers.keep_durable(info(key), kv(i), 0)
        assert tiers.keep_fast(info(key), kv(i), 0)
    loaded = tiers.load([info("aa"), info("bb"), info("cc")])
    assert {k: float(v.mean()) for k, v in loaded.kv.items()} == {"aa": 0.0, "bb": 1.0}
    assert list(loaded.missing) == ["cc"]
    tiers.forget(["aa", "bb"])
    assert not tiers.anywhere("aa")
    assert list(tiers.tiers[1].store.entries()) == []
    tiers.close()


def test_a_damaged_file_is_missing_and_forgotten(tmp_path: Path) -> None:
    tiers = pair(tmp_path, fast=1, slow=10)
    tiers.keep_durable(info("aa"), kv(), 0)
    store = tiers.tiers[1].store
    assert isinstance(store, DiskStore)
    path = store.path("aa")
    path.write_bytes(path.read_bytes()[:-3])
    assert "aa" in tiers.load([info("aa")]).missing
    assert not path.exists()
    assert not tiers.anywhere("aa")
    assert tiers.tiers[1].used_bytes == 0
    tiers.close()


def test_what_lies_on_disk_is_on_the_books_after_a_restart(tmp_path: Path) -> None:
    first = pair(tmp_path, fast=1, slow=10)
    for key in ("aa", "bb", "cc"):
        first.keep_durable(info(key), kv(), 0)
    first.close()
    second = pair(tmp_path, fast=1, slow=10)
    files = sum(size for _, size in second.tiers[1].store.entries())
    assert second.tiers[1].used_bytes == files
    assert len(second.tiers[1]) == 3
    second.close()
    lowered = Tier(DiskStore(tmp_path / "kv"), files * 2 // 3, LRU(), Leases())
    lowered.trim()
    assert [gone.reason for gone in lowered.let_go] == ["lowered-budget"]
    assert lowered.used_bytes <= lowered.budget_bytes


class Refusing(MemoryStore):
    """A store whose disk is full."""

    durable = True

    def put(self, info: BlockInfo, kv: torch.Tensor) -> int:
        raise StoreError("full")


def test_a_failed_put_leaves_the_books_clean() -> None:
    leases = Leases()
    tiers = Tiers([Tier(Refusing(), 10_000, LRU(), leases)], leases)
    with pytest.raises(StoreError):
        tiers.keep_durable(info("a"), kv(), 0)
    assert tiers.tiers[0].used_bytes == 0
    assert not tiers.anywhere("a")


class Lying(MemoryStore):
    """A store that serves nothing but damage."""

    def get_packed(self, info: BlockInfo) -> Packed | None:
        raise CorruptBlockError("damaged")


@pytest.mark.parametrize("store", [Lying(), MemoryStore()])
def test_blocks_that_cannot_be_served_leave_the_books(store: BlockStore) -> None:
    tier = Tier(store, 10 * BLOCK_BYTES, LRU(), Leases())
    tiers = Tiers([tier], Leases())
    tiers.keep_fast(info("a"), kv(), 0)
    store.delete("a")
    assert list(tiers.load([info("a")]).missing) == ["a"]
    assert tier.used_bytes == 0
    tiers.close()


A, B = Owner("a", "s"), Owner("b", "s")


def reasons(tiers: Tiers) -> list[tuple[str, str, str]]:
    return [(gone.tier, gone.key, gone.reason) for gone in tiers.evictions()]


def test_a_tenant_over_its_quota_evicts_its_own_blocks_first() -> None:
    leases = Leases()
    limits = Limits(tenant_bytes=2 * BLOCK_BYTES)
    tier = Tier(MemoryStore(), 4 * BLOCK_BYTES, LRU(), leases, limits)
    tiers = Tiers([tier], leases)
    for key, owner in (("b1", B), ("a1", A), ("a2", A), ("a3", A)):
        assert tiers.keep_fast(info(key), kv(), 0, owner)
        assert tier.tenant_bytes(owner.tenant) <= 2 * BLOCK_BYTES
    assert reasons(tiers) == [("memory", "a1", "quota")]
    with leases.hold(["a2", "a3"]):
        assert not tiers.keep_fast(info("a4"), kv(), 0, A)
    assert reasons(tiers) == []
    assert "b1" in tier


def test_a_sweep_goes_from_the_high_to_the_low_watermark() -> None:
    leases = Leases()
    tier = Tier(MemoryStore(), 10 * BLOCK_BYTES, LRU(), leases, Limits(high=0.8, low=0.5))
    tiers = Tiers([tier], leases)
    for number in range(8):
        tiers.keep_fast(info(str(number)), kv(), 0)
    tiers.sweep()
    assert reasons(tiers) == []
    tiers.keep_fast(info("8"), kv(), 0)
    tiers.sweep()
    assert reasons(tiers) == [("memory", str(number), "watermark") for number in range(4)]
    assert tier.used_bytes == 5 * BLOCK_BYTES
    assert tier.evicted == {"watermark": 4}


def test_what_expired_goes_and_leased_blocks_stay() -> None:
    leases, now = Leases(), 100.0
    tier = Tier(MemoryStore(), 10 * BLOCK_BYTES, TTL(10.0), leases, clock=lambda: now)
    tiers = Tiers([tier], leases)
    for key in "abc":
        tiers.keep_fast(info(key), kv(), 0)
    now = 110.0
    with leases.hold(["a"]):
        tiers.sweep()
    assert reasons(tiers) == [("memory", "b", "ttl"), ("memory", "c", "ttl")]
    tiers.sweep()
    assert reasons(tiers) == [("memory", "a", "ttl")]


def test_blocks_sink_to_slower_tiers_and_rise_on_use(tmp_path: Path) -> None:
    leases = Leases()
    device = Tier(DeviceStore("cpu"), BLOCK_BYTES, LRU(), leases)
    ram = memory(1, leases)
    disk = Tier(DiskStore(tmp_path / "kv"), 10_000, LRU(), leases)
    tiers = Tiers([device, ram, disk], leases)
    for number, key in enumerate(("aa", "bb", "cc")):
        assert tiers.keep_fast(info(key), kv(number), 64 * number, A)
    assert ["aa" in disk, "bb" in ram, "cc" in device] == [True] * 3
    assert sum(map(len, tiers.tiers)) == 3
    entry = disk.entry("aa")
    assert entry is not None
    assert (entry.tenant, entry.depth) == ("a", 0)
    assert reasons(tiers) == [("device", "aa", "budget"), ("memory", "aa", "budget"), ("device", "bb", "budget")]
    loaded = tiers.load([info("aa")])
    tiers.settle()
    assert float(loaded.kv["aa"].mean()) == 0.0
    assert ["aa" in device, "cc" in ram, "bb" in disk, "aa" in disk] == [True] * 4
    assert [float(tiers.load([info(key)]).kv[key].mean()) for key in ("aa", "bb", "cc")] == [0.0, 1.0, 2.0]
    tiers.close()


class Slow(MemoryStore):
    """Something is forgotten while a block comes in."""

    durable = True
    name = "slow"
    meanwhile: Callable[[], None] = staticmethod(lambda: None)

    def put(self, info: BlockInfo, kv: torch.Tensor | Packed) -> int:
        self.meanwhile()
        return super().put(info, kv)


@pytest.mark.parametrize("key", ["aa", "cc"])
def test_a_block_that_is_forgotten_on_its_way_down_stays_nowhere(key: str) -> None:
    leases, store = Leases(), Slow()
    tiers = Tiers([memory(1, leases), Tier(store, 10 * BLOCK_BYTES, LRU(), leases)], leases)
    tiers.keep_fast(info("aa"), kv(), 0)
    store.meanwhile = lambda: tiers.forget([key])
    tiers.keep_fast(info("bb"), kv(), 0)
    assert tiers.anywhere("aa") == (key != "aa")
    assert [k for k, _ in store.entries()] == (["aa"] if key != "aa" else [])
    tiers.close()


class Weighed(MemoryStore):
    """Knows its bytes at every moment, whoever asks."""

    most = 0

    def put(self, info: BlockInfo, kv: torch.Tensor | Packed) -> int:
        size = super().put(info, kv)
        self.most = max(self.most, sum(bytes_ for _, bytes_ in self.entries()))
        return size


def test_the_budget_holds_at_every_moment_under_threads() -> None:
    leases, store = Leases(), Weighed()
    tier = Tier(store, 5 * BLOCK_BYTES, LRU(), leases, Limits(high=0.8, low=0.6, tenant_bytes=4 * BLOCK_BYTES))
    tiers = Tiers([tier], leases)

    def work(seed: int) -> None:
        rng = random.Random(seed)
        for number in range(150):
            key = f"{seed}-{number}"
            length = rng.choice((1, 4, 8))
            tiers.keep_fast(BlockInfo(key, "f" * 64, length), torch.zeros(2, 2, 1, length, 4), 0, rng.choice((A, B)))
            assert tier.used_bytes <= tier.budget_bytes
            tiers.load([BlockInfo(f"{rng.randrange(4)}-{number}", "f" * 64, 4)])
            if rng.random() < 0.1:
                tiers.sweep()
                tiers.forget([f"{seed}-{rng.randrange(number + 1)}"])

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert store.most <= tier.budget_bytes
    assert tier.used_bytes == sum(size for _, size in store.entries())
    assert tier.tenant_bytes("a") + tier.tenant_bytes("b") == tier.used_bytes
    tiers.close()
