"""The place of `semshare_agents.kv.packing` up to version 0.1; kept for one version."""

from __future__ import annotations

import warnings

from semshare_agents.kv.packing import K5V4, PACKINGS, Int8, Packed, Packing, Raw, make_packing, packing_of

warnings.warn(
    "semshare_agents.kv.packing has moved: import semshare_agents.kv.packing; this name goes with the next version",
    DeprecationWarning,
    stacklevel=2,
)

__all__ = ["K5V4", "PACKINGS", "Int8", "Packed", "Packing", "Raw", "make_packing", "packing_of"]
