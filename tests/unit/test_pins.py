"""Pinned blocks in the tiers: they outlive any pressure, and expired pins hold nothing."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from semshare_agents.errors import PinError, StoreError
from semshare_agents.evict import POLICIES, PolicyOptions, make_policy
from semshare_agents.kv.packing import Packed
from semshare_agents.memory.pins import check
from semshare_agents.registry import PinnedBlock
from semshare_agents.settings import load_settings
from semshare_agents.store import BlockInfo, DiskStore, MemoryStore, Tier, Tiers
from semshare_agents.store.holds import Leases, Limits
from semshare_agents.store.loaded import Owner

BLOCK_BYTES = 2 * 2 * 1 * 4 * 4 * 4
FOREVER = float("inf")


def kv(value: float = 0.0) -> torch.Tensor:
    return torch.full((2, 2, 1, 4, 4), float(value))


def info(key: str) -> BlockInfo:
    return BlockInfo(key, "f" * 64, 4)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def one_tier(policy: str, blocks: int, clock: Clock, limits: Limits | None = None) -> Tiers:
    leases = Leases()
    made = make_policy(policy, PolicyOptions(ttl_seconds=50.0))
    return Tiers([Tier(MemoryStore(), blocks * BLOCK_BYTES, made, leases, limits, clock)], leases)


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_a_pinned_block_outlives_pressure_until_its_pin_ends(policy: str) -> None:
    clock, limits = Clock(), Limits(high=0.9, low=0.1, tenant_bytes=4 * BLOCK_BYTES)
    tiers = one_tier(policy, 5, clock, limits)
    tiers.keep_fast(info("pinned"), kv(7.0), 0, Owner("a", "talk"))
    tiers.pins.replace({"pinned": 1100.0})
    for number in range(30):
        clock.now += 2.0
        tiers.keep_fast(info(f"n{number}"), kv(), 64, Owner("ab"[number % 2]))
        tiers.sweep()
    assert float(tiers.load([info("pinned")]).kv["pinned"].mean()) == 7.0
    tiers.tiers[0].budget_bytes = BLOCK_BYTES
    tiers.trim()
    assert tiers.anywhere("pinned")
    clock.now = 1100.0
    tiers.tiers[0].budget_bytes = 0
    tiers.trim()
    assert not tiers.anywhere("pinned")


def test_where_all_is_pinned_nothing_comes_in() -> None:
    tiers = one_tier("lru", 2, Clock())
    for key in "ab":
        tiers.keep_fast(info(key), kv(), 0)
    tiers.pins.replace({"a": FOREVER, "b": FOREVER})
    assert not tiers.keep_fast(info("c"), kv(), 0)
    tiers.pins.replace({"a": FOREVER})
    assert tiers.keep_fast(info("c"), kv(), 0)
    assert [tiers.anywhere(key) for key in "abc"] == [True, False, True]


class Broken(DiskStore):
    """Cannot be written for now."""

    broken = True

    def put(self, info: BlockInfo, kv: torch.Tensor | Packed) -> int:
        if self.broken:
            raise StoreError("no")
        return super().put(info, kv)


def test_ram_keeps_what_is_pinned_until_the_disk_has_it(tmp_path: Path) -> None:
    leases, clock, store = Leases(), Clock(), Broken(tmp_path / "kv")
    ram = Tier(MemoryStore(), 2 * BLOCK_BYTES, make_policy("lru"), leases, clock=clock)
    disk = Tier(store, 100_000, make_policy("lru"), leases, clock=clock)
    tiers = Tiers([ram, disk], leases)
    tiers.keep_fast(info("aa"), kv(7.0), 0)
    tiers.pins.replace({"aa": FOREVER})
    for key in ("bb", "cc", "dd"):
        tiers.keep_fast(info(key), kv(), 0)
        with pytest.raises(StoreError):
            tiers.keep_durable(info("aa"), kv(7.0), 0)
        assert "aa" in ram
    store.broken = False
    assert tiers.keep_durable(info("aa"), kv(7.0), 0)
    for key in ("ee", "ff"):
        tiers.keep_fast(info(key), kv(), 0)
    assert "aa" not in ram
    assert float(tiers.load([info("aa")]).kv["aa"].mean()) == 7.0
    tiers.close()


@given(st.integers(0, 2**32), st.sampled_from(sorted(POLICIES)))
def test_whatever_happens_pinned_blocks_stay_and_the_budget_holds(seed: int, policy: str) -> None:
    rng, clock = random.Random(seed), Clock()
    tiers = one_tier(policy, 6, clock, Limits(high=0.8, low=0.3, tenant_bytes=5 * BLOCK_BYTES))
    tier, pinned = tiers.tiers[0], dict[str, float]()
    for number in range(40):
        clock.now += rng.choice((0.1, 1.0, 30.0))
        tiers.keep_fast(info(f"k{number}"), kv(), rng.randrange(3) * 64, Owner(rng.choice("ab"), rng.choice(("", "s"))))
        held = {key for key, _ in tier.store.entries()}
        assert {key for key, ends_at in pinned.items() if clock.now < ends_at} <= held
        assert tier.used_bytes <= tier.budget_bytes
        if held and rng.random() < 0.3:
            pinned[rng.choice(sorted(held))] = clock.now + rng.choice((5.0, 100.0, FOREVER))
            tiers.pins.replace(dict(pinned))
        if rng.random() < 0.2:
            pinned.pop(rng.choice(sorted(held)), None)
            tiers.pins.replace(dict(pinned))
        # What ended is no longer expected, so it must not come back into force.
        pinned = {key: ends_at for key, ends_at in pinned.items() if clock.now < ends_at}
        tiers.sweep()


def test_pins_that_do_not_fit_are_refused_with_what_to_do() -> None:
    blocks = [PinnedBlock("a", "acme", 60, FOREVER), PinnedBlock("b", "acme", 40, 5.0), PinnedBlock("c", "x", 30, 5.0)]
    nowhere = dict[str, int]().get
    check(blocks, load_settings(disk_bytes=130, tenant_bytes=100), nowhere)
    with pytest.raises(PinError, match=r"'acme' hold 100 bytes, .* quota of 99: .* raise tenant_bytes"):
        check(blocks, load_settings(tenant_bytes=99), nowhere)
    with pytest.raises(PinError, match=r"hold 130 bytes, .* budget of 129: .* raise disk_bytes"):
        check(blocks, load_settings(disk_bytes=129), nowhere)
    with pytest.raises(PinError, match="raise memory_bytes"):
        check(blocks, load_settings(disk_bytes=0, memory_bytes=129), nowhere)
    with pytest.raises(PinError, match="hold 131 bytes"):
        check(blocks, load_settings(disk_bytes=130), {"a": 61}.get)
