"""Eviction policies: one file each on the contract in `base`."""

from __future__ import annotations

from semshare_agents.errors import ConfigurationError
from semshare_agents.evict.base import EvictionPolicy
from semshare_agents.evict.fifo import FIFO
from semshare_agents.evict.lfu import LFU
from semshare_agents.evict.lru import LRU
from semshare_agents.evict.slru import SLRU

POLICIES: dict[str, type[EvictionPolicy]] = {"fifo": FIFO, "lfu": LFU, "lru": LRU, "slru": SLRU}


def make_policy(name: str) -> EvictionPolicy:
    """A new policy by name.

    Raises:
        ConfigurationError: there is no such policy.
    """
    try:
        return POLICIES[name]()
    except KeyError:
        raise ConfigurationError(f"unknown eviction policy {name!r}; known: {', '.join(POLICIES)}") from None


__all__ = ["FIFO", "LFU", "LRU", "POLICIES", "SLRU", "EvictionPolicy", "make_policy"]
