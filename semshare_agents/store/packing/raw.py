"""KV as it is."""

from __future__ import annotations

import torch

from semshare_agents.store.packing.base import Packed, Packing

PART = "kv"


class Raw(Packing):
    """Keeps every bit."""

    name = "raw"
    version = 1
    lossless = True

    def pack(self, kv: torch.Tensor) -> Packed:
        """See `Packing.pack`."""
        return Packed(self.name, self.version, tuple(kv.shape), kv.dtype, {PART: kv})

    def unpack(self, packed: Packed) -> torch.Tensor:
        """See `Packing.unpack`."""
        return packed.parts[PART]
