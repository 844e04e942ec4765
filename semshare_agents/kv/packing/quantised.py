"""Quantised KV: heads centred, turned by a Hadamard matrix, then rounded token by token.

Keys have channels that are large for every token, and single channels that stick out. Taking off each channel's mean
removes the first, a Hadamard rotation of each head spreads the second over all channels (QuaRot, Ashkboos et al. 2024),
and what is left is close enough to Gaussian for one scale a token and head to do. Attention sinks are the exception:
everything attends to them, so an error in their keys moves every answer, and they are kept as they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import ClassVar

import torch

from semshare_agents.errors import StoreError
from semshare_agents.kv.layout import CHANNELS, KV, TOKENS, beside_tokens, gather, keys_and_values, keys_of, scatter
from semshare_agents.kv.packing.base import Packed, Packing
from semshare_agents.kv.packing.bits import pack_bits, unpack_bits

MEAN_STEPS = 127
OCTAVE_STEPS = 16
"""Scales are kept as 8 bits on a logarithmic grid of so many steps an octave, below the head's largest."""
SINK_DISTANCE = 1.4
"""Tokens whose keys lie so much farther from the block's mean than the median token's count as sinks."""
MOST_SINKS = 4


class Quantised(Packing):
    """Rounds keys to `key_bits` and values to `value_bits`; version and sizes are the subclasses'."""

    lossless = False
    key_bits: ClassVar[int]
    value_bits: ClassVar[int]

    def pack(self, kv: KV) -> Packed:
        """See `Packing.pack`.

        Raises:
            StoreError: the block has values that are not finite.
        """
        sinks = _sinks(keys_of(kv))
        parts = {"sinks": sinks.to(torch.int16), "sink_kv": gather(kv, sinks)}
        for name, half, bits in self._halves(kv):
            parts |= {f"{name}_{part}": t for part, t in _quantise(half.float(), bits).items()}
        return Packed(self.name, self.version, tuple(kv.shape), kv.dtype, parts)

    def unpack(self, packed: Packed) -> KV:
        """See `Packing.unpack`."""
        parts, shape = packed.parts, packed.shape
        kv = torch.empty(shape, dtype=packed.dtype, device=parts["sinks"].device)
        for name, half, bits in self._halves(kv):
            _restore({part: parts[f"{name}_{part}"] for part in PARTS}, bits, half)
        scatter(kv, parts["sinks"].long(), parts["sink_kv"])
        return kv

    def _halves(self, kv: KV) -> Iterator[tuple[str, torch.Tensor, int]]:
        """Keys and values, with the name of each and the bits of its numbers."""
        yield from zip("kv", keys_and_values(kv), (self.key_bits, self.value_bits), strict=True)


class Int8(Quantised):
    """Eight bits a number."""

    name = "int8"
    version = 1
    key_bits = 8
    value_bits = 8


class K5V4(Quantised):
    """Five bits for keys, four for values: errors in keys move attention, errors in values only what it gathers."""

    name = "k5v4"
    version = 1
    key_bits = 5
    value_bits = 4


PARTS = ("codes", "mean", "mean_step", "scale", "largest")


def _sinks(keys: torch.Tensor) -> torch.Tensor:
    """Indices of tokens whose keys stand apart, ascending, shape `(sinks,)`."""
    norms = (keys.float() - keys.float().mean(TOKENS, keepdim=True)).norm(dim=CHANNELS, keepdim=True)
    far = norms / norms.median(TOKENS, keepdim=True).values.clamp_min(1e-12)
    apart = far.mean(beside_tokens(far))
    found = torch.argsort(apart, descending=True)[:MOST_SINKS]
    return found[apart[found] > SINK_DISTANCE].sort().values


def _quantise(x: torch.Tensor, bits: int) -> dict[str, torch.Tensor]:
    """Quantise keys or values; see `PARTS`."""
    mean = x.mean(TOKENS, keepdim=True)
    mean_step = (mean.abs().amax(CHANNELS, keepdim=True) / MEAN_STEPS).clamp_min(1e-30)
    mean = (mean / mean_step).round()
    y = _turned(x - mean * mean_step)
    half = 2 ** (bits - 1)
    scale = (y.abs().amax(CHANNELS, keepdim=True) / (half - 0.5)).clamp_min(1e-30)
    largest = scale.amax(TOKENS, keepdim=True)
    if not bool(torch.isfinite(largest).all() & torch.isfinite(mean_step).all()):
        raise StoreError("a block with values that are not finite cannot be quantised: use kv_codec='raw'")
    grid = (torch.log2(largest / scale) * OCTAVE_STEPS).floor().clamp(0, 255)
    codes = torch.floor(y / _scales(grid, largest)).clamp(-half, half - 1) + half
    return {
        "codes": pack_bits(codes.to(torch.uint8), bits),
        "mean": mean.to(torch.int8),
        "mean_step": mean_step,
        "scale": grid.to(torch.uint8),
        "largest": largest,
    }


def _restore(parts: dict[str, torch.Tensor], bits: int, out: torch.Tensor) -> None:
    """Undo `_quantise` into `out`."""
    y = unpack_bits(parts["codes"], bits, out.numel()).view(out.shape).float()
    # Each code stands for the middle of its interval.
    y.add_(0.5 - 2 ** (bits - 1)).mul_(_scales(parts["scale"].float(), parts["largest"]))
    out.copy_(_turned(y).add_(parts["mean"].float() * parts["mean_step"]))


def _scales(grid: torch.Tensor, largest: torch.Tensor) -> torch.Tensor:
    return torch.exp2(grid / -OCTAVE_STEPS) * largest


def _turned(x: torch.Tensor) -> torch.Tensor:
    """Every head turned by a Hadamard matrix, which is its own inverse."""
    dim = x.shape[CHANNELS]
    size = dim & -dim
    turned: torch.Tensor = x.reshape(-1, size) @ _hadamard(size, x.device)
    return turned.reshape(x.shape)


@lru_cache(maxsize=16)
def _hadamard(size: int, device: torch.device) -> torch.Tensor:
    """Sylvester's Hadamard matrix of a power of two, orthonormal, shape `(size, size)`."""
    matrix = torch.ones(1, 1)
    while len(matrix) < size:
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)])
    scaled: torch.Tensor = matrix / size**0.5
    return scaled.to(device)
