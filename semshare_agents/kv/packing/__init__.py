"""How stored KV is packed: as it is or quantised, one way a file on the contract in `base.py`."""

from __future__ import annotations

from semshare_agents.errors import ConfigurationError
from semshare_agents.kv.packing.base import Packed, Packing
from semshare_agents.kv.packing.quantised import K5V4, Int8
from semshare_agents.kv.packing.raw import Raw

PACKINGS: dict[str, type[Packing]] = {p.name: p for p in (Raw, Int8, K5V4)}


def make_packing(name: str) -> Packing:
    """The packing called `name`.

    Raises:
        ConfigurationError: there is none of that name.
    """
    if name not in PACKINGS:
        raise ConfigurationError(f"unknown kv_codec {name!r}; known: {', '.join(PACKINGS)}")
    return PACKINGS[name]()


def packing_of(packed: Packed) -> Packing:
    """What packed a block.

    Raises:
        LookupError: this version has no such packing, or packs in another version.
    """
    if packed.packing not in PACKINGS:
        raise LookupError(f"is packed as {packed.packing!r}; this version reads {', '.join(PACKINGS)}")
    packing = PACKINGS[packed.packing]()
    if packed.version != packing.version:
        raise LookupError(
            f"is packed by {packed.packing} version {packed.version}; this version reads version {packing.version}"
        )
    return packing


__all__ = ["K5V4", "PACKINGS", "Int8", "Packed", "Packing", "Raw", "make_packing", "packing_of"]
