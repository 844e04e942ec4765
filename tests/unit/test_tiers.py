"""Budgets, leases and eviction of the tiers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from semshare_agents.errors import ConfigurationError, CorruptBlockError, StoreError
from semshare_agents.evict import LRU, make_policy
from semshare_agents.evict.base import NOBODY, Entry
from semshare_agents.store import BlockInfo, BlockStore, DiskStore, MemoryStore, Tier, Tiers
from semshare_agents.store.packing import Packed
from semshare_agents.store.tiers import Leases

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
    return [gone.key for gone in tiers.departures() if not tiers.anywhere(gone.key)]


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
    assert loaded.slow == ("aa",)
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
    assert [gone.reason for gone in lowered.departed] == ["lowered-budget"]
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
