"""Eviction policies: one file each on the contract in `base`."""

from __future__ import annotations

from semshare_agents.errors import ConfigurationError
from semshare_agents.evict.base import EvictionPolicy
from semshare_agents.evict.lru import LRU

POLICIES: dict[str, type[EvictionPolicy]] = {"lru": LRU}


def make_policy(name: str) -> EvictionPolicy:
    """A new policy by name.

    Raises:
        ConfigurationError: there is no such policy.
    """
    try:
        return POLICIES[name]()
    except KeyError:
        raise ConfigurationError(f"unknown eviction policy {name!r}; known: {', '.join(POLICIES)}") from None


__all__ = ["LRU", "POLICIES", "EvictionPolicy", "make_policy"]
