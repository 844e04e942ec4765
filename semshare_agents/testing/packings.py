"""What every packing must do."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar

import pytest
import torch
from safetensors.torch import load, save

from semshare_agents.errors import StoreError
from semshare_agents.kv.layout import KV, KVLayout, keys_and_values, keys_of, take
from semshare_agents.kv.packing.base import Packed, Packing

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
MODEL = "f" * 64
MARGIN = 0.01
"""What rounding to a type of 16 bits adds to an error."""


def kv_of(layers: int, heads: int, tokens: int, head_dim: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> KV:
    """A block of random KV, keys with one channel that is large for every token."""
    shape = KVLayout(layers, heads, head_dim, dtype).shape(tokens)
    kv = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    keys_of(kv)[..., -1] += 6.0
    return kv.to(dtype)


def relative_error(found: torch.Tensor, kv: torch.Tensor) -> float:
    """Root mean square of the difference over that of the block."""
    wrong = (found.float() - kv.float()).square().mean().sqrt()
    return float(wrong / kv.float().square().mean().sqrt().clamp_min(1e-30))


def same(a: Packed, b: Packed) -> bool:
    """Whether two packed blocks are equal to the bit."""
    return a.parts.keys() == b.parts.keys() and all(torch.equal(a.parts[n], b.parts[n]) for n in a.parts)


class PackingConformance:
    """Tests of the `Packing` contract. Derive from it and give a fixture `packing`; a lossy one states its error.

    Attributes:
        error: Largest relative error (root mean square) of random KV; not used where the packing is lossless.
    """

    error: ClassVar[float] = 0.0

    @pytest.fixture
    def most_error(self, packing: Packing) -> float:
        """What a block may be off by; derive it where it depends on the packing."""
        return 0.0 if packing.lossless else self.error

    def test_says_what_it_is(self, packing: Packing) -> None:
        """Files and fingerprints hold name and version."""
        assert packing.name
        assert packing.name.isascii()
        assert packing.version >= 1
        packed = packing.pack(kv_of(2, 3, 8, 4))
        assert (packed.packing, packed.version) == (packing.name, packing.version)

    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    def test_a_block_comes_back_within_the_stated_error(
        self, packing: Packing, most_error: float, dtype: torch.dtype
    ) -> None:
        """Of the type and shape that it had, which `Packed` tells."""
        kv = kv_of(2, 3, 64, 32, dtype=dtype)
        packed = packing.pack(kv)
        found = packing.unpack(packed)
        assert packed.shape == tuple(kv.shape) == tuple(found.shape)
        assert packed.dtype == kv.dtype == found.dtype
        if packing.lossless:
            assert torch.equal(found, kv)
        assert relative_error(found, kv) <= most_error + MARGIN * (not packing.lossless)

    @pytest.mark.parametrize("head_dim", [1, 2, 3, 8, 40, 64, 80, 96, 128, 256])
    def test_heads_of_any_size(self, packing: Packing, most_error: float, head_dim: int) -> None:
        """Models have heads of 40, 80 and 96 numbers too: no power of two may be taken for granted."""
        kv = kv_of(1, 2, 24, head_dim)
        assert relative_error(packing.unpack(packing.pack(kv)), kv) <= most_error

    @pytest.mark.parametrize("tokens", [1, 2, 3, 7, 16, 255])
    @pytest.mark.parametrize("heads", [1, 5])
    def test_blocks_of_any_length(self, packing: Packing, most_error: float, tokens: int, heads: int) -> None:
        """The last block of a turn is short, down to one token."""
        kv = kv_of(3, heads, tokens, 16)
        assert relative_error(packing.unpack(packing.pack(kv)), kv) <= most_error

    def test_blocks_without_any_spread(self, packing: Packing) -> None:
        """Zeros and equal tokens have no scale to divide by."""
        for value in (0.0, 3.0):
            kv = torch.full_like(kv_of(1, 2, 8, 16), value)
            assert torch.allclose(packing.unpack(packing.pack(kv)), kv, rtol=0.01, atol=1e-6)

    def test_a_token_that_stands_apart_costs_the_others_nothing(self, packing: Packing, most_error: float) -> None:
        """Attention sinks have keys far from all others."""
        kv = kv_of(2, 2, 32, 16)
        keys_of(take(kv, 0, 1)).mul_(20.0)
        found = packing.unpack(packing.pack(kv))
        assert relative_error(take(found, 1, 32), take(kv, 1, 32)) <= most_error

    @pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
    def test_values_that_are_not_finite_survive_or_are_refused(self, packing: Packing, value: float) -> None:
        """They never come back as ordinary numbers."""
        kv = kv_of(1, 2, 8, 16)
        take(keys_and_values(kv)[1], 3, 4)[..., 5] = value
        try:
            found = packing.unpack(packing.pack(kv))
        except StoreError:
            return
        assert torch.equal(torch.nan_to_num(found, nan=7e30), torch.nan_to_num(kv, nan=7e30))

    def test_a_view_is_packed_as_its_copy(self, packing: Packing) -> None:
        """Blocks are cut out of a turn's KV, so they are seldom contiguous; they stay as they are."""
        whole = kv_of(2, 3, 40, 16)
        before = whole.clone()
        part = take(whole, 8, 24)
        packed = packing.pack(part)
        assert same(packed.copy(), packing.pack(part.contiguous()).copy())
        packing.unpack(packed)
        assert torch.equal(whole, before)

    def test_packing_and_unpacking_give_the_same_every_time(self, packing: Packing) -> None:
        """No chance, and what is packed is not used up."""
        kv = kv_of(2, 3, 24, 16)
        packed = packing.pack(kv).copy()
        assert same(packed, packing.pack(kv).copy())
        again = packed.copy()
        first = packing.unpack(packed).clone()
        assert torch.equal(first, packing.unpack(packed))
        assert same(packed, again)

    def test_parts_can_be_written_to_a_file(self, packing: Packing) -> None:
        """As named tensors of types that safetensors knows, with nothing else to remember them by."""
        kv = kv_of(2, 3, 24, 16, dtype=torch.bfloat16)
        packed = packing.pack(kv).copy()
        read = Packed(packed.packing, packed.version, packed.shape, packed.dtype, load(save(dict(packed.parts))))
        assert torch.equal(packing.unpack(read), packing.unpack(packed))

    def test_a_lossy_packing_is_smaller_than_the_block(self, packing: Packing) -> None:
        """Else it loses for nothing; a lossless one may not grow."""
        kv = kv_of(2, 3, 256, 64, dtype=torch.bfloat16)
        size = packing.pack(kv).copy().nbytes
        assert size <= kv.nbytes
        assert packing.lossless or size < 0.9 * kv.nbytes

    def test_what_is_lost_is_never_taken_for_the_models_own(self, packing: Packing) -> None:
        """A lossy packing has fingerprints of its own; a lossless one shares the model's."""
        mine = packing.fingerprint(MODEL)
        assert (mine == MODEL) == packing.lossless
        assert len(mine) == 64
        assert set(mine) <= set("0123456789abcdef")
        assert packing.fingerprint(MODEL) == mine != packing.fingerprint("e" * 64)

    def test_threads_may_share_a_packing(self, packing: Packing) -> None:
        """It has no state: many threads get what one gets."""
        blocks = [kv_of(2, 2, 16 + seed, 16, seed=seed) for seed in range(6)]
        alone = [packing.unpack(packing.pack(kv)).clone() for kv in blocks]

        def work(i: int) -> bool:
            return torch.equal(packing.unpack(packing.pack(blocks[i % 6])), alone[i % 6])

        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(work, range(60)))
