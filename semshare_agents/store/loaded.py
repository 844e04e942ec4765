"""What tiers are asked and what they give: whose blocks are, what was read, what blocks are worth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from semshare_agents.evict.base import Use
from semshare_agents.kv.layout import KV
from semshare_agents.kv.packing import Packed
from semshare_agents.store.base import BlockInfo
from semshare_agents.store.tier import Tier


@dataclass(frozen=True)
class Owner:
    """Whose a block is.

    Attributes:
        tenant: The tenant.
        session: The conversation; empty for a stateless call.
    """

    tenant: str = ""
    session: str = ""

    def use(self, at: float) -> Use:
        """A use by this owner. Session names are a tenant's own."""
        return Use(at, f"{len(self.tenant)}|{self.tenant}|{self.session}" if self.session else "")


NO_OWNER = Owner()
Waiting = tuple[BlockInfo, int, Owner]
"""A block that waits for its file, where its first token lies in its turn, and whose it is."""


@dataclass(frozen=True)
class Loaded:
    """Blocks read from the tiers.

    Attributes:
        kv: Blocks of KV by key.
        missing: Keys that no tier could serve, with the reason.
        unreadable: Those of `missing` that are there but could not be read now.
    """

    kv: Mapping[str, KV]
    missing: Mapping[str, str]
    unreadable: frozenset[str] = frozenset()


class Costs(Protocol):
    """What blocks are worth."""

    def block_seconds(self, depth: int, tokens: int, size_bytes: int) -> float:
        """What computing a block would take longer than loading it."""

    def saw_disk(self, size_bytes: int, seconds: float) -> None:
        """So much KV was read from the durable tier in one load."""


@dataclass(frozen=True)
class Read:
    """A block that was looked for in slow tiers.

    Attributes:
        reason: Why there is none; empty where there is one.
        there: Whether it is there, or may be later.
        kv: The block.
        packed: The block as the tier has it.
        tier: Where it was.
        began: When reading it began, in seconds of one clock.
        ended: When it was read.
    """

    reason: str
    there: bool
    kv: KV | None = None
    packed: Packed | None = None
    tier: Tier | None = None
    began: float = 0.0
    ended: float = 0.0
