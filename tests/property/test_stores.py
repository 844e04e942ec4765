"""The codec on all shapes, and tiers against a plain model of what they may hold."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from semshare_agents.errors import CorruptBlockError
from semshare_agents.evict import LRU
from semshare_agents.store import BlockInfo, DiskStore, MemoryStore, Tier, Tiers, codec
from semshare_agents.store.tiers import Leases

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
FINGERPRINT = "f" * 64


@settings(max_examples=60, deadline=None)
@given(
    shape=st.tuples(*(st.integers(1, 5) for _ in range(5))),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 1000),
    special=st.sampled_from([0.0, -0.0, float("inf"), float("nan"), 1e-40]),
)
def test_blocks_survive_the_file_to_the_bit(
    shape: tuple[int, ...], dtype: torch.dtype, seed: int, special: float
) -> None:
    kv = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)
    kv.view(-1)[0] = special
    info = BlockInfo("abc", FINGERPRINT, shape[3])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "block"
        path.write_bytes(codec.encode(info, kv))
        found = codec.decode(path, info)
        assert found.dtype == dtype
        assert found.shape == kv.shape
        assert torch.equal(found.view(torch.uint8), kv.view(torch.uint8))


@settings(max_examples=150, deadline=None)
@given(at=st.integers(0, 10**6), bit=st.integers(0, 7), cut=st.booleans())
def test_damage_anywhere_never_changes_what_is_served(at: int, bit: int, cut: bool) -> None:
    kv = torch.randn(2, 2, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    info = BlockInfo("abc", FINGERPRINT, 4)
    content = bytearray(codec.encode(info, kv))
    at %= len(content)
    if cut:
        del content[at:]
    else:
        content[at] ^= 1 << bit
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "block"
        path.write_bytes(content)
        try:
            found = codec.decode(path, info)
        except CorruptBlockError:
            return
        assert not cut
        assert torch.equal(found, kv)


def block(key: str, tokens: int) -> tuple[BlockInfo, torch.Tensor]:
    return BlockInfo(key, FINGERPRINT, tokens), torch.full((1, 2, 1, tokens, 4), float(int(key)))


class TiersMachine(RuleBasedStateMachine):
    """Random puts, reads, leases and damage on a RAM and a disk tier."""

    @initialize(fast=st.integers(100, 900), slow=st.integers(2000, 12000))
    def open(self, fast: int, slow: int) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.leases = Leases()
        self.disk = DiskStore(Path(self.folder.name) / "kv")
        self.fast = Tier(MemoryStore(), fast, LRU(), self.leases)
        self.slow = Tier(self.disk, slow, LRU(), self.leases)
        self.tiers = Tiers([self.fast, self.slow], self.leases)
        self.held = ExitStack()
        self.leased: set[str] = set()
        self.blocks: dict[str, tuple[BlockInfo, torch.Tensor]] = {}

    @rule(tokens=st.integers(1, 16), durable=st.booleans(), fast=st.booleans())
    def put(self, tokens: int, durable: bool, fast: bool) -> None:
        key = f"{len(self.blocks):06d}"
        info, kv = self.blocks.setdefault(key, block(key, tokens))
        before = {k for k in self.blocks if self.tiers.anywhere(k)}
        lost: list[str] = []
        if fast:
            kept, gone = self.tiers.keep_fast(info, kv, 0)
            assert kept == (key in self.fast)
            lost += gone
        if durable:
            kept, gone = self.tiers.keep_durable(info, kv, 0)
            assert kept == (key in self.slow)
            lost += gone
        after = {k for k in self.blocks if self.tiers.anywhere(k)}
        assert before - after == set(lost) - {key}

    @precondition(lambda self: self.blocks)
    @rule(data=st.data())
    def read(self, data: st.DataObject) -> None:
        wanted = data.draw(st.sets(st.sampled_from(sorted(self.blocks)), min_size=1, max_size=4))
        there = {k for k in wanted if self.tiers.anywhere(k)}
        loaded = self.tiers.load([self.blocks[k][0] for k in sorted(wanted)])
        assert set(loaded.kv) == there
        assert set(loaded.missing) == wanted - there
        for key, kv in loaded.kv.items():
            assert torch.equal(kv, self.blocks[key][1])

    @precondition(lambda self: self.blocks)
    @rule(data=st.data())
    def lease(self, data: st.DataObject) -> None:
        keys = data.draw(st.sets(st.sampled_from(sorted(self.blocks)), max_size=2))
        self.held.enter_context(self.leases.hold(keys))
        self.leased |= {k for k in keys if self.tiers.anywhere(k)}

    @rule()
    def release(self) -> None:
        self.held.close()
        self.leased = set()
        assert not any(key in self.leases for key in self.blocks)

    @precondition(lambda self: self.blocks)
    @rule(data=st.data())
    def forget(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.blocks)))
        self.tiers.forget([key])
        self.leased.discard(key)
        assert not self.tiers.anywhere(key)

    @precondition(lambda self: self.blocks)
    @rule(data=st.data())
    def lose_a_file(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.blocks)))
        if key in self.slow and key not in self.fast:
            self.disk.path(key).unlink()
            assert list(self.tiers.load([self.blocks[key][0]]).missing) == [key]
            self.leased.discard(key)

    @invariant()
    def budgets_hold_and_books_are_right(self) -> None:
        if not hasattr(self, "tiers"):
            return
        for tier in (self.fast, self.slow):
            assert tier.used_bytes <= tier.budget_bytes
            entries = dict(tier.store.entries())
            assert {k for k in self.blocks if k in tier} == set(entries)
            assert sum(tier.store.size_bytes(self.blocks[k][1]) for k in entries) == tier.used_bytes

    @invariant()
    def leased_blocks_are_still_there(self) -> None:
        for key in getattr(self, "leased", ()):
            assert self.tiers.anywhere(key)

    def teardown(self) -> None:
        if hasattr(self, "tiers"):
            self.held.close()
            self.tiers.close()
            self.folder.cleanup()


TestTiers = TiersMachine.TestCase
TestTiers.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)


@pytest.mark.parametrize("keys", [["a"], ["a", "a", "b"], []])
def test_leases_count(keys: list[str]) -> None:
    leases = Leases()
    with leases.hold(keys), leases.hold(keys):
        assert all(k in leases for k in keys)
    assert not any(k in leases for k in keys)
