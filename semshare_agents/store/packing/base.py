"""The contract of packings; see `semshare_agents.kv.packing.base`."""

from semshare_agents.kv.packing.base import Packed, Packing

__all__ = ["Packed", "Packing"]
