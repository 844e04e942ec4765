"""The axes of KV, and everything that is done along them.

KV of some tokens is one tensor `(layers, 2, kv_heads, tokens, head_dim)`: of each layer the keys, then the values. It
is a *block* where all of it is KV, and a *buffer* where it has room for more tokens than it holds. Attention takes the
keys and values of one layer apart, each `(1, kv_heads, tokens, head_dim)`; what goes along the tokens here works on
those too. No other file says so: whoever takes, puts or moves KV calls what is here.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch

KV = torch.Tensor
"""A block or a buffer."""

TOKENS = -2
"""The axis of tokens, of KV and of keys or values alone."""
CHANNELS = -1
"""The axis of a head's numbers, of either."""
_HALVES = 1
_HEADS = -3


@dataclass(frozen=True)
class KVLayout:
    """What KV of one model looks like.

    Attributes:
        layers: Decoder layers.
        kv_heads: KV heads of each layer.
        head_dim: Numbers of a head.
        dtype: Type of the numbers.
    """

    layers: int
    kv_heads: int
    head_dim: int
    dtype: torch.dtype

    @classmethod
    def of(cls, layers: Iterable[tuple[torch.Tensor | None, ...]], dtype: torch.dtype) -> KVLayout | None:
        """The layout of what a model keeps of each layer, keys and values; None where they are not all of one shape.

        Args:
            layers: Keys and values as the library caches them; None where it keeps none.
            dtype: Type of the numbers.
        """
        found = list(layers)
        shapes = {tuple(part.shape) for layer in found for part in layer if part is not None}
        if len(shapes) != 1 or len(shape := shapes.pop()) != 4:
            return None
        return cls(len(found), shape[1], shape[3], dtype)

    @property
    def token_bytes(self) -> int:
        """Bytes of one token's KV over all layers."""
        return self.layers * 2 * self.kv_heads * self.head_dim * self.dtype.itemsize

    def shape(self, tokens: int) -> tuple[int, ...]:
        """The shape of so many tokens' KV."""
        return (self.layers, 2, self.kv_heads, tokens, self.head_dim)

    def empty(self, tokens: int, device: torch.device) -> KV:
        """KV of so many tokens, its content undefined."""
        return torch.empty(self.shape(tokens), dtype=self.dtype, device=device)


def tokens_of(kv: KV) -> int:
    """How many tokens KV has, or a buffer has room for."""
    return kv.shape[TOKENS]


def heads_of(part: torch.Tensor) -> int:
    """How many KV heads a layer's keys or values have."""
    return part.shape[_HEADS]


def take(kv: KV, start: int, end: int) -> KV:
    """Tokens `start` to `end`, not included, as a view.

    Raises:
        RuntimeError: there are not so many.
    """
    return kv.narrow(TOKENS, start, end - start)


def put(buffer: KV, at: int, kv: KV) -> KV:
    """Copy KV into a buffer from position `at` on; returns where it lies now, as a view.

    Raises:
        RuntimeError: there is no room for it.
    """
    return take(buffer, at, at + tokens_of(kv)).copy_(kv)


def gather(kv: KV, positions: torch.Tensor) -> KV:
    """A copy of the tokens at `positions`, shape `(tokens,)`."""
    return kv.index_select(TOKENS, positions)


def scatter(buffer: KV, positions: torch.Tensor, kv: KV) -> None:
    """Copy KV to `positions` of a buffer, shape `(tokens,)`, one for each of its tokens."""
    buffer.index_copy_(TOKENS, positions, kv)


def fill(buffer: KV, positions: torch.Tensor, value: float) -> None:
    """Set every number at `positions`, shape `(tokens,)`."""
    buffer.index_fill_(TOKENS, positions, value)


def keys_and_values(kv: KV) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys and values of all layers, as views `(layers, kv_heads, tokens, head_dim)`."""
    return kv.select(_HALVES, 0), kv.select(_HALVES, 1)


def keys_of(kv: KV) -> torch.Tensor:
    """Keys of all layers, as a view `(layers, kv_heads, tokens, head_dim)`: what moves with positions."""
    return kv.select(_HALVES, 0)


def layer_of(kv: KV, index: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys and values of one layer as attention takes them, as views `(1, kv_heads, tokens, head_dim)`."""
    return kv[index, 0][None], kv[index, 1][None]


def gather_heads(part: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """A copy of one layer's keys or values in which every head has tokens of its own.

    Args:
        part: `(1, kv_heads, tokens, head_dim)`.
        positions: `(kv_heads, kept)`.

    Returns:
        `(1, kv_heads, kept, head_dim)`.
    """
    index = positions.to(part.device)[None, :, :, None].expand(1, -1, -1, part.shape[CHANNELS])
    return part.gather(TOKENS, index)


def beside_tokens(x: torch.Tensor) -> tuple[int, ...]:
    """All axes but that of tokens: summing over them leaves one number a token."""
    return tuple(axis for axis in range(x.dim()) if axis != x.dim() + TOKENS)
