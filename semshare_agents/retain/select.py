"""Which tokens each layer keeps."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from semshare_agents.errors import ConfigurationError

POLICIES = ("recent", "constant", "growing", "decay", "attention")
SPREAD = 4.0
"""How many times more the fullest layer keeps than the emptiest, where layers differ."""
POOLED_TOKENS = 7
"""Neighbours that a token is kept with: a word is of little use without the words around it."""


@dataclass(frozen=True)
class Retention:
    """How much KV an answer is decoded on.

    Attributes:
        policy: `recent` keeps the newest tokens (StreamingLLM, Xiao et al. 2023). All others keep the tokens that the
            prompt's end attends to, every KV head its own: `constant` the same share in every layer, `growing` more
            in deeper layers, `decay` exponentially fewer (SemShareKV), `attention` as many as the layer's attention
            needs.
        share: Mean share of the prompt's KV that is kept, in (0, 1].
        sinks: First tokens, always kept.
        recent: Last tokens, always kept.

    Raises:
        ConfigurationError: the policy is unknown or a number is not allowed.
    """

    policy: str = "constant"
    share: float = 0.58
    sinks: int = 4
    recent: int = 64

    def __post_init__(self) -> None:
        if self.policy not in POLICIES:
            raise ConfigurationError(f"unknown retention policy {self.policy!r}; known: {', '.join(POLICIES)}")
        if not 0 < self.share <= 1:
            raise ConfigurationError(f"the retention share must be in (0, 1]; got {self.share}")
        if self.sinks < 0 or self.recent < 1:
            raise ConfigurationError("retention needs sinks of at least 0 and a recent window of at least 1 token")


def layer_shares(retention: Retention, attention: torch.Tensor) -> list[float]:
    """The share of the prompt that each layer keeps; its mean is the retention's.

    Args:
        retention: Policy and share.
        attention: `(layers, kv_heads, tokens)`, as from `TailObserver.attention`.
    """
    layers = len(attention)
    if retention.policy == "growing":
        weights = np.linspace(1.0, SPREAD, layers)
    elif retention.policy == "decay":
        weights = SPREAD ** -np.linspace(0.0, 1.0, layers)
    elif retention.policy == "attention":
        everything = attention.flatten()
        rank = max(1, round(len(everything) * (1 - retention.share)))
        floor = everything.kthvalue(rank).values
        above = (attention > floor).float().mean((1, 2)).cpu().numpy()
        weights = np.maximum(above, retention.share / SPREAD)
    else:
        weights = np.ones(layers)
    return _filled(np.asarray(weights, np.float64), retention.share)


def _filled(weights: np.ndarray[tuple[int], np.dtype[np.float64]], share: float) -> list[float]:
    """Shares in proportion to weights, none above 1, whose mean is `share`."""
    low, high = 0.0, 1.0 / float(weights.min())
    for _ in range(64):
        middle = (low + high) / 2
        if np.minimum(1.0, middle * weights).mean() < share:
            low = middle
        else:
            high = middle
    return [float(s) for s in np.minimum(1.0, high * weights)]


def retained_positions(retention: Retention, attention: torch.Tensor) -> list[torch.Tensor]:
    """For each layer, the positions that it keeps, ascending, `(kv_heads, kept)`; lengths differ between layers.

    Args:
        retention: What to keep.
        attention: `(layers, kv_heads, tokens)`, as from `TailObserver.attention`.
    """
    heads, tokens = attention.shape[1:]
    kept: list[torch.Tensor] = []
    for scores, share in zip(attention, layer_shares(retention, attention), strict=True):
        if retention.policy == "recent":
            worth = torch.arange(tokens, device=scores.device).expand(heads, -1).float().clone()
        else:
            worth = F.max_pool1d(scores[None], POOLED_TOKENS, 1, POOLED_TOKENS // 2)[0].clone()
        worth[:, : retention.sinks] = float("inf")
        worth[:, max(0, tokens - retention.recent) :] = float("inf")
        # Rounding up lets a share of 1 keep everything whatever a float makes of it.
        count = min(tokens, max(math.ceil(share * tokens - 1e-6), retention.sinks + retention.recent))
        kept.append(worth.topk(count, dim=-1).indices.sort(dim=-1).values)
    return kept
