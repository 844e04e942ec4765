"""Small whole numbers packed into bytes."""

from __future__ import annotations

import torch


def pack_bits(codes: torch.Tensor, bits: int) -> torch.Tensor:
    """Pack numbers of 4 to 8 bits: nibbles first, then one plane for each further bit.

    Nibbles and planes are interleaved by segment, not by element, so that unpacking writes contiguous memory.

    Args:
        codes: Numbers below `2 ** bits`, uint8, any shape.
        bits: 4 to 8.

    Returns:
        uint8 of shape `(bytes,)`.
    """
    flat = codes.flatten()
    if bits == 8:
        return flat
    flat = torch.nn.functional.pad(flat, (0, -len(flat) % 8))
    low, high = (flat & 15).view(2, -1)
    streams = [low | (high << 4)]
    for bit in range(4, bits):
        segments = ((flat >> bit) & 1).view(8, -1)
        plane = segments[0].clone()
        for i in range(1, 8):
            plane |= segments[i] << i
        streams.append(plane)
    return torch.cat(streams)


def unpack_bits(packed: torch.Tensor, bits: int, count: int) -> torch.Tensor:
    """Undo `pack_bits`.

    Args:
        packed: uint8 of shape `(bytes,)`.
        bits: 4 to 8.
        count: How many numbers were packed.

    Returns:
        uint8 of shape `(count,)`.
    """
    if bits == 8:
        return packed
    padded = count + -count % 8
    flat = torch.empty(padded, dtype=torch.uint8, device=packed.device)
    low, high = flat.view(2, -1)
    torch.bitwise_and(packed[: padded // 2], 15, out=low)
    torch.bitwise_right_shift(packed[: padded // 2], 4, out=high)
    segments = flat.view(8, -1)
    for number, bit in enumerate(range(4, bits)):
        begin = padded // 2 + number * (padded // 8)
        plane = packed[begin : begin + padded // 8]
        for i in range(8):
            segments[i] |= ((plane >> i) & 1) << bit
    return flat[:count]
