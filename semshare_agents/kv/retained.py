"""The part of one layer's KV that an answer is decoded on."""

from __future__ import annotations

import torch

from semshare_agents.kv.layout import CHANNELS, KV, TOKENS, gather_heads, layer_of, put, take, tokens_of

CODES = 127


class RetainedLayer:
    """One layer's kept keys and values, and the answer's after them.

    Args:
        buffer: A prompt's KV; it is copied.
        index: The layer.
        where: Positions to keep, ascending, `(kv_heads, kept)`.
        room: How many tokens may follow.
        int8: Keep the prompt's part in 8 bits, with a scale for each token and head.
    """

    def __init__(self, buffer: KV, index: int, where: torch.Tensor, room: int, int8: bool):
        keys, values = layer_of(buffer, index)
        self._keys, self._values = _Part(keys, where, room, int8), _Part(values, where, room, int8)

    @property
    def nbytes(self) -> int:
        """Bytes it takes, room for the answer included."""
        return self._keys.nbytes + self._values.nbytes

    def append(self, keys: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Add a token's keys and values; returns all, as attention takes them."""
        return self._keys.append(keys), self._values.append(values)


class _Part:
    """Keys or values of one layer."""

    def __init__(self, part: torch.Tensor, where: torch.Tensor, room: int, int8: bool):
        kept = gather_heads(part, where)
        self._codes = self._scale = None
        if int8:
            scale = (kept.float().abs().amax(CHANNELS, keepdim=True) / CODES).clamp_min(1e-12)
            self._codes = (kept.float() / scale).round().to(torch.int8)
            self._scale = scale.to(part.dtype)
            kept = take(kept, 0, 0)
        self._length = tokens_of(kept)
        self._wide = torch.cat([kept, kept.new_empty(*kept.shape[:TOKENS], room, kept.shape[CHANNELS])], TOKENS)

    @property
    def nbytes(self) -> int:
        packed = 0 if self._codes is None or self._scale is None else self._codes.nbytes + self._scale.nbytes
        return self._wide.nbytes + packed

    def append(self, fresh: torch.Tensor) -> torch.Tensor:
        put(self._wide, self._length, fresh)
        self._length += tokens_of(fresh)
        wide = take(self._wide, 0, self._length)
        if self._codes is None or self._scale is None:
            return wide
        return torch.cat([self._codes.to(wide.dtype).mul_(self._scale), wide], TOKENS)
