"""Buffers: KV with room for a whole turn."""

from __future__ import annotations

from threading import Lock

import numpy as np
import torch

from semshare_agents.kv.layout import KV, KVLayout, put, take, tokens_of


class BufferPool:
    """Full-length buffers, kept for reuse because fresh memory costs more than filling it.

    Args:
        layout: What their KV looks like.
        device: Where they lie.
        keep: How many free buffers to keep.
    """

    STEP_TOKENS = 512

    def __init__(self, layout: KVLayout, device: torch.device, keep: int = 2):
        self._layout = layout
        self._device = device
        self._keep = keep
        self._free: list[KV] = []
        self._lock = Lock()

    def acquire(self, tokens: int) -> KV:
        """A buffer with room for `tokens`; its content is undefined."""
        with self._lock:
            fitting = sorted((b for b in self._free if tokens_of(b) >= tokens), key=tokens_of)
            if fitting:
                self._free = [b for b in self._free if b is not fitting[0]]
                return fitting[0]
        capacity = -(-tokens // self.STEP_TOKENS) * self.STEP_TOKENS
        shape, dtype = self._layout.shape(capacity), self._layout.dtype
        if self._device.type != "cpu":
            return torch.zeros(shape, dtype=dtype, device=self._device)
        # NumPy asks the kernel for huge pages on large arrays: first use is several times faster than torch.empty.
        raw = np.zeros(int(np.prod(shape)) * dtype.itemsize, dtype=np.uint8)
        return torch.from_numpy(raw).view(dtype).view(shape)

    def larger(self, buffer: KV, used: int, tokens: int) -> KV:
        """A buffer with room for `tokens` that begins as another does.

        The other one is not given back: somebody may be reading it out, to whom it stays as it is.

        Args:
            buffer: The other.
            used: How many of its tokens count.
            tokens: The room.
        """
        grown = self.acquire(tokens)
        put(grown, 0, take(buffer, 0, used))
        return grown

    def release(self, buffer: KV) -> None:
        """Give a buffer back; the smallest of too many is dropped."""
        with self._lock:
            self._free = sorted([*self._free, buffer], key=tokens_of)[max(0, len(self._free) + 1 - self._keep) :]
