"""Eviction policies: one file each on the contract in `base`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from semshare_agents.errors import ConfigurationError
from semshare_agents.evict.base import NOBODY, Entry, EvictionPolicy, Use
from semshare_agents.evict.fifo import FIFO
from semshare_agents.evict.gdsf import GDSF
from semshare_agents.evict.lfu import LFU
from semshare_agents.evict.lru import LRU
from semshare_agents.evict.session import SessionAware
from semshare_agents.evict.slru import SLRU
from semshare_agents.evict.ttl import TTL


@dataclass(frozen=True)
class PolicyOptions:
    """What some policies want to know.

    Attributes:
        ttl_seconds: How long an entry of `ttl` lives after its last use.
        moved: Whether blocks are of use without those before them.
    """

    ttl_seconds: float = 7 * 86400.0
    moved: bool = False


POLICIES: dict[str, Callable[[PolicyOptions], EvictionPolicy]] = {
    "fifo": lambda _: FIFO(),
    "gdsf": lambda _: GDSF(),
    "lfu": lambda _: LFU(),
    "lru": lambda _: LRU(),
    "session": lambda options: SessionAware(options.moved),
    "slru": lambda _: SLRU(),
    "ttl": lambda options: TTL(options.ttl_seconds),
}


def make_policy(name: str, options: PolicyOptions | None = None) -> EvictionPolicy:
    """A new policy by name.

    Raises:
        ConfigurationError: there is no such policy.
    """
    if name not in POLICIES:
        raise ConfigurationError(f"unknown eviction policy {name!r}; known: {', '.join(POLICIES)}")
    return POLICIES[name](options or PolicyOptions())


__all__ = [
    "FIFO",
    "GDSF",
    "LFU",
    "LRU",
    "NOBODY",
    "POLICIES",
    "SLRU",
    "TTL",
    "Entry",
    "EvictionPolicy",
    "PolicyOptions",
    "SessionAware",
    "Use",
    "make_policy",
]
