"""How far one run of a model drifts from another over the same tokens."""

from __future__ import annotations

import torch


def kl_tokens(cold: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Kullback-Leibler divergence of cold to other at each token, in nats, float64 of shape `(tokens,)`.

    Args:
        cold: Logits `(tokens, vocabulary)`.
        other: Logits of the same tokens, `(tokens, vocabulary)`.
    """
    p, q = cold.double().log_softmax(-1), other.double().log_softmax(-1)
    return (p.exp() * (p - q)).sum(-1)


def kl_mean(cold: torch.Tensor, other: torch.Tensor) -> float:
    """Mean of `kl_tokens`; rounding never makes it negative."""
    return max(0.0, float(kl_tokens(cold, other).mean()))


def agreement(cold: torch.Tensor, other: torch.Tensor) -> float:
    """Share of tokens at which both find the same token likeliest; shapes as in `kl_tokens`."""
    return float((cold.argmax(-1) == other.argmax(-1)).float().mean())
