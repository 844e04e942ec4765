"""What every KV store must do."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch

from semshare_agents.errors import CorruptBlockError
from semshare_agents.kv.layout import KV, KVLayout, take, tokens_of
from semshare_agents.store.base import BlockInfo, BlockStore

LAYOUT = KVLayout(layers=2, kv_heads=3, head_dim=4, dtype=torch.float32)
TOKENS = 8


def block(key: str, dtype: torch.dtype = torch.float32, seed: int = 0) -> tuple[BlockInfo, KV]:
    """A block's name and random KV."""
    kv = torch.randn(LAYOUT.shape(TOKENS), generator=torch.Generator().manual_seed(seed)).to(dtype)
    return BlockInfo(key, "f" * 64, TOKENS), kv


def kept(store: BlockStore, kv: KV) -> KV:
    """What a store's packing makes of a block."""
    return store.packing.unpack(store.packing.pack(kv))


class StoreConformance:
    """Tests of the `BlockStore` contract. Derive from it and give a fixture `store` with an empty store."""

    def test_a_block_comes_back_as_it_was(self, store: BlockStore) -> None:
        """Bits, up to the packing, and type survive."""
        for i, dtype in enumerate((torch.float32, torch.bfloat16, torch.float16)):
            info, kv = block(f"{i:02d}type", dtype, i)
            assert store.put(info, kv) >= store.packed(kv).nbytes
            found = store.get(info)
            assert found is not None
            assert found.dtype == dtype
            assert torch.equal(found.cpu(), kept(store, kv))

    def test_a_packed_block_is_kept_as_it_is(self, store: BlockStore) -> None:
        """Tiers hand packed blocks on, so that all of them keep the same bits."""
        info, kv = block("aapacked")
        packed = store.packed(kv)
        store.put(info, packed)
        found = store.get_packed(info)
        assert found is not None
        assert {name: part.tolist() for name, part in found.parts.items()} == {
            name: part.tolist() for name, part in packed.parts.items()
        }

    def test_a_view_is_kept_as_a_copy(self, store: BlockStore) -> None:
        """What the caller does to its buffer afterwards does not reach the store."""
        info, _ = block("aaview")
        buffer = torch.zeros(LAYOUT.shape(100))
        part = take(buffer, 40, 40 + TOKENS).fill_(5.0)
        store.put(info, part)
        buffer.fill_(9.0)
        found = store.get(info)
        assert found is not None
        assert tokens_of(found) == TOKENS
        assert torch.equal(found.cpu(), kept(store, torch.full(LAYOUT.shape(TOKENS), 5.0)))

    def test_unknown_keys_are_none(self, store: BlockStore) -> None:
        """Nothing is nothing, no error."""
        assert store.get(block("aanone")[0]) is None

    def test_an_existing_key_is_left_as_it_is(self, store: BlockStore) -> None:
        """Keys are never used twice, so a second put changes nothing."""
        info, kv = block("aatwice", seed=1)
        first = store.put(info, kv)
        assert store.put(info, block("aatwice", seed=2)[1]) == first
        found = store.get(info)
        assert found is not None
        assert torch.equal(found.cpu(), kept(store, kv))

    @pytest.mark.parametrize("wrong", [{"fingerprint": "e" * 64}, {"tokens": 7}])
    def test_another_models_or_lengths_block_is_never_served(self, store: BlockStore, wrong: dict[str, object]) -> None:
        """A block answers to its full name only."""
        info, kv = block("aaother")
        store.put(info, kv)
        with pytest.raises(CorruptBlockError):
            store.get(replace(info, **wrong))  # type: ignore[arg-type]
        assert store.get(info) is not None

    def test_deleted_blocks_are_gone(self, store: BlockStore) -> None:
        """Deleting twice is fine."""
        info, kv = block("aagone")
        store.put(info, kv)
        store.delete("aagone")
        store.delete("aagone")
        assert store.get(info) is None
        assert list(store.entries()) == []

    def test_a_block_deleted_while_in_use_stays_readable(self, store: BlockStore) -> None:
        """Who has a block keeps it."""
        info, kv = block("aause")
        store.put(info, kv)
        held = store.get(info)
        store.delete(info.key)
        assert held is not None
        assert torch.equal(held.cpu(), kept(store, kv))

    def test_entries_name_every_block_and_its_bytes(self, store: BlockStore) -> None:
        """The sizes are those that `put` told."""
        sizes = {}
        for i in range(5):
            info, kv = block(f"{i:02d}entry", seed=i)
            sizes[info.key] = store.put(info, kv)
        store.delete("03entry")
        del sizes["03entry"]
        assert dict(store.entries()) == sizes

    def test_threads_may_share_a_store(self, store: BlockStore) -> None:
        """Puts, gets and deletes of many threads leave whole blocks."""

        def work(i: int) -> bool:
            info, kv = block(f"{i % 7:02d}thread", seed=i % 7)
            store.put(info, kv)
            found = store.get(info)
            if i % 5 == 0:
                store.delete(info.key)
            return found is None or torch.equal(found.cpu(), kept(store, kv))

        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(work, range(140)))
