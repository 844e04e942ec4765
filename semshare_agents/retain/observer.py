"""What the end of a prompt attends to (SnapKV, Li et al. 2024)."""

from __future__ import annotations

from collections.abc import Collection

import torch

from semshare_agents.model.attention import RunRows, attended


class TailObserver:
    """Sums up the attention of a pass's last rows; give it to a forward as `watch`.

    Args:
        first: Position from which on rows are watched.
        layers: Layers that are watched; None for all.
    """

    def __init__(self, first: int, layers: Collection[int] | None = None):
        self._first = first
        self._watched = layers
        self.layers: dict[int, torch.Tensor] = {}
        """For each layer, the mean attention that each key of each KV head gets, `(kv_heads, keys)`."""

    def __call__(self, part: RunRows, query: torch.Tensor, key: torch.Tensor, scaling: float | None) -> None:
        """See `semshare_agents.model.attention.AttentionObserver`."""
        count = int((part.rows >= self._first).sum())
        if not count or (self._watched is not None and part.layer not in self._watched):
            return
        self.layers[part.layer] = attended(part, query, key, scaling, count)

    def attention(self) -> torch.Tensor:
        """Attention of all watched layers, `(layers, kv_heads, keys)`."""
        return torch.stack([self.layers[layer] for layer in sorted(self.layers)])
