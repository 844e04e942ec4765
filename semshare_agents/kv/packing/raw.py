"""KV as it is."""

from __future__ import annotations

from semshare_agents.kv.layout import KV
from semshare_agents.kv.packing.base import Packed, Packing

PART = "kv"


class Raw(Packing):
    """Keeps every bit."""

    name = "raw"
    version = 1
    lossless = True

    def pack(self, kv: KV) -> Packed:
        """See `Packing.pack`."""
        return Packed(self.name, self.version, tuple(kv.shape), kv.dtype, {PART: kv})

    def unpack(self, packed: Packed) -> KV:
        """See `Packing.unpack`."""
        return packed.parts[PART]
