"""Blocks in the process's RAM."""

from __future__ import annotations

from collections.abc import Iterator
from threading import Lock

import torch

from semshare_agents.errors import CorruptBlockError
from semshare_agents.kv.layout import KV
from semshare_agents.kv.packing import Packed, Packing, Raw
from semshare_agents.store.base import BlockInfo, BlockStore


class MemoryStore(BlockStore):
    """Keeps blocks on one torch device, RAM by default.

    Args:
        device: The device.
        packing: How blocks are packed; None keeps them as they are.
    """

    name = "memory"

    def __init__(self, device: str | torch.device = "cpu", packing: Packing | None = None) -> None:
        self.packing = packing or Raw()
        self._device = torch.device(device)
        self._lock = Lock()
        self._blocks: dict[str, tuple[BlockInfo, Packed]] = {}

    def put(self, info: BlockInfo, kv: KV | Packed) -> int:
        """See `BlockStore.put`."""
        with self._lock:
            known = self._blocks.get(info.key)
        if known is None:
            copy = self.packed(kv).copy(self._device)
            with self._lock:
                known = self._blocks.setdefault(info.key, (info, copy))
        return known[1].nbytes

    def get_packed(self, info: BlockInfo) -> Packed | None:
        """See `BlockStore.get_packed`."""
        with self._lock:
            known = self._blocks.get(info.key)
        if known is None:
            return None
        if known[0] != info:
            raise CorruptBlockError(f"block {info.key} in {self.name} belongs to another model or length")
        return known[1]

    def delete(self, key: str) -> None:
        """See `BlockStore.delete`."""
        with self._lock:
            self._blocks.pop(key, None)

    def take(self, key: str) -> tuple[BlockInfo, Packed] | None:
        """See `BlockStore.take`."""
        with self._lock:
            return self._blocks.pop(key, None)

    def entries(self) -> Iterator[tuple[str, int]]:
        """See `BlockStore.entries`."""
        with self._lock:
            known = [(key, packed.nbytes) for key, (_, packed) in self._blocks.items()]
        return iter(known)
