"""The contract of packings."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import blake3
import torch

from semshare_agents.kv.layout import KV


@dataclass(frozen=True)
class Packed:
    """A packed block.

    Attributes:
        packing: Name of what packed it.
        version: Version of that packing.
        shape: Shape of the KV; see `semshare_agents.kv.layout`.
        dtype: Type of the KV.
        parts: What the packing made of it.
        content: What the KV was computed of, as `semshare_agents.kv.content` writes it; empty where nobody asks.
    """

    packing: str
    version: int
    shape: tuple[int, ...]
    dtype: torch.dtype
    parts: Mapping[str, torch.Tensor]
    content: str = ""

    @property
    def nbytes(self) -> int:
        """Bytes of all parts."""
        return sum(part.nbytes for part in self.parts.values())

    def copy(self, device: torch.device | None = None) -> Packed:
        """The same in memory of its own, contiguous, on `device` or where it is."""
        own = {
            name: torch.empty(part.shape, dtype=part.dtype, device=device or part.device).copy_(part)
            for name, part in self.parts.items()
        }
        return replace(self, parts=own)


class Packing(ABC):
    """Turns KV blocks into what a store keeps, and back. Without state, so any thread may use it."""

    name: ClassVar[str]
    version: ClassVar[int]
    """Grows whenever `unpack` would read an older block wrongly."""
    lossless: ClassVar[bool]
    """Whether blocks come back to the bit."""

    @abstractmethod
    def pack(self, kv: KV) -> Packed:
        """Pack a block of KV (see `semshare_agents.kv.layout`); parts may be views of it, on its device.

        Raises:
            StoreError: the block cannot be packed.
        """

    @abstractmethod
    def unpack(self, packed: Packed) -> KV:
        """The block, of the shape and type it had; may be a view of a part."""

    def fingerprint(self, model: str) -> str:
        """The fingerprint under which a model's KV is kept.

        What a lossy packing gives back is not what the model computed, so it may only ever serve those who asked for
        that packing. `exact` then means: exact up to the packing.

        Args:
            model: Fingerprint of the model, 64 hexadecimal digits.

        Returns:
            64 hexadecimal digits; the model's own where the packing is lossless.
        """
        if self.lossless:
            return model
        return str(blake3.blake3(f"{model}|{self.name}|{self.version}".encode()).hexdigest())
