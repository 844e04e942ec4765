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

from semshare_agents.errors import ConfigurationError, CorruptBlockError, StoreError
from semshare_agents.evict import LRU
from semshare_agents.kv.packing import PACKINGS, Raw, make_packing
from semshare_agents.kv.packing.bits import pack_bits, unpack_bits
from semshare_agents.store import BlockInfo, DiskStore, MemoryStore, Tier, Tiers, file_format
from semshare_agents.store.holds import Leases

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
        path.write_bytes(file_format.encode(info, Raw().pack(kv)))
        found = Raw().unpack(file_format.decode(path, info))
        assert found.dtype == dtype
        assert found.shape == kv.shape
        assert torch.equal(found.view(torch.uint8), kv.view(torch.uint8))


@settings(max_examples=150, deadline=None)
@given(at=st.integers(0, 10**6), bit=st.integers(0, 7), cut=st.booleans(), name=st.sampled_from(list(PACKINGS)))
def test_damage_anywhere_never_changes_what_is_served(at: int, bit: int, cut: bool, name: str) -> None:
    kv = torch.randn(2, 2, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    info = BlockInfo("abc", FINGERPRINT, 4)
    packing = make_packing(name)
    content = bytearray(file_format.encode(info, packing.pack(kv)))
    at %= len(content)
    if cut:
        del content[at:]
    else:
        content[at] ^= 1 << bit
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "block"
        path.write_bytes(content)
        try:
            found = packing.unpack(file_format.decode(path, info))
        except CorruptBlockError:
            return
        assert not cut
        assert torch.equal(found, packing.unpack(packing.pack(kv)))


@settings(max_examples=100, deadline=None)
@given(
    shape=st.tuples(
        st.integers(1, 3), st.just(2), st.integers(1, 3), st.integers(1, 70), st.sampled_from([1, 3, 8, 12, 64])
    ),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 1000),
    size=st.sampled_from([1e-6, 1.0, 300.0]),
    name=st.sampled_from(["int8", "k5v4"]),
)
def test_quantised_blocks_stay_within_their_step(
    shape: tuple[int, ...], dtype: torch.dtype, seed: int, size: float, name: str
) -> None:
    random = torch.Generator().manual_seed(seed)
    # Channels that are large for every token, and one token far from all others.
    kv = torch.randn(shape, generator=random) + 3 * torch.randn((*shape[:3], 1, shape[4]), generator=random)
    kv[:, 0, :, 0] += 20
    kv = (kv * size).to(dtype)
    packing = make_packing(name)
    packed = packing.pack(kv)
    found = packing.unpack(packed)
    assert found.dtype == dtype
    assert found.shape == kv.shape
    wrong = (found.double() - kv.double()).norm(dim=-1)
    spread = (kv.double() - kv.double().mean(3, keepdim=True)).norm(dim=-1)
    smallest = torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps
    rounding = torch.finfo(dtype).eps * kv.double().norm(dim=-1) + smallest * shape[4] ** 0.5 + 1e-12
    # A step is the largest of a head's turned numbers over half the codes; what rounding takes from the mean is coded.
    mean = kv.double().mean(3, keepdim=True).abs().amax(-1) / 254 * shape[4] ** 0.5
    for index, bits in ((0, {"int8": 8, "k5v4": 5}[name]), (1, {"int8": 8, "k5v4": 4}[name])):
        step = 1.05 * (spread + mean)[:, index] / (2 ** (bits - 1) - 0.5)
        assert bool((wrong[:, index] <= 0.5 * step * shape[4] ** 0.5 + 2 * rounding[:, index]).all())


@settings(max_examples=60, deadline=None)
@given(bits=st.integers(4, 8), count=st.integers(1, 100), seed=st.integers(0, 1000))
def test_codes_survive_packing_into_bits(bits: int, count: int, seed: int) -> None:
    codes = torch.randint(0, 2**bits, (count,), generator=torch.Generator().manual_seed(seed)).to(torch.uint8)
    packed = pack_bits(codes, bits)
    assert packed.nbytes <= (count + 7) * bits / 8
    assert torch.equal(unpack_bits(packed, bits, count), codes)


@pytest.mark.parametrize("name", ["int8", "k5v4"])
@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_what_is_not_finite_cannot_be_quantised(name: str, wrong: float) -> None:
    kv = torch.randn(2, 2, 2, 8, 8)
    kv[1, 1, 0, 3, 2] = wrong
    with pytest.raises(StoreError, match="raw"):
        make_packing(name).pack(kv)


@pytest.mark.parametrize(("name", "share"), [("int8", 0.27), ("k5v4", 0.15)])
def test_a_block_of_the_default_models_shape_takes_its_share(name: str, share: float) -> None:
    kv = torch.randn(30, 2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    disk = file_format.file_bytes(make_packing(name).pack(kv))
    assert disk < share * kv.nbytes


@pytest.mark.parametrize("name", ["int8", "k5v4"])
def test_sinks_survive_to_the_bit(name: str) -> None:
    kv = torch.randn(4, 2, 2, 64, 16, generator=torch.Generator().manual_seed(0))
    kv[:, 0, :, 0] *= 4
    packing = make_packing(name)
    found = packing.unpack(packing.pack(kv))
    assert torch.equal(found[:, :, :, 0], kv[:, :, :, 0])
    assert not torch.equal(found[:, :, :, 1:], kv[:, :, :, 1:])


def test_unknown_packings_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="k5v4"):
        make_packing("int3")


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
        self.tiers.evictions()
        if fast:
            assert self.tiers.keep_fast(info, kv, 0) == (key in self.fast)
        if durable:
            assert self.tiers.keep_durable(info, kv, 0) == (key in self.slow)
        after = {k for k in self.blocks if self.tiers.anywhere(k)}
        assert before - after <= {gone.key for gone in self.tiers.evictions()}

    @precondition(lambda self: self.blocks)
    @rule(data=st.data())
    def read(self, data: st.DataObject) -> None:
        wanted = data.draw(st.sets(st.sampled_from(sorted(self.blocks)), min_size=1, max_size=4))
        there = {k for k in wanted if self.tiers.anywhere(k)}
        loaded = self.tiers.load([self.blocks[k][0] for k in sorted(wanted)])
        self.tiers.settle()
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
            assert sum(entries.values()) == tier.used_bytes

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
