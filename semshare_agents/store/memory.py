"""Blocks in the process's RAM."""

from __future__ import annotations

from collections.abc import Iterator
from threading import Lock

import torch

from semshare_agents.errors import CorruptBlockError
from semshare_agents.store.base import BlockInfo, BlockStore


class MemoryStore(BlockStore):
    """Keeps blocks on one torch device, RAM by default."""

    name = "memory"

    def __init__(self, device: str | torch.device = "cpu") -> None:
        self._device = torch.device(device)
        self._lock = Lock()
        self._blocks: dict[str, tuple[BlockInfo, torch.Tensor]] = {}

    def put(self, info: BlockInfo, kv: torch.Tensor) -> int:
        """See `BlockStore.put`."""
        with self._lock:
            known = self._blocks.get(info.key)
        if known is None:
            copy = torch.empty(kv.shape, dtype=kv.dtype, device=self._device).copy_(kv)
            with self._lock:
                known = self._blocks.setdefault(info.key, (info, copy))
        return known[1].nbytes

    def get(self, info: BlockInfo) -> torch.Tensor | None:
        """See `BlockStore.get`."""
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

    def entries(self) -> Iterator[tuple[str, int]]:
        """See `BlockStore.entries`."""
        with self._lock:
            known = [(key, kv.nbytes) for key, (_, kv) in self._blocks.items()]
        return iter(known)
