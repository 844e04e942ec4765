"""What eviction reads and writes: what is known of stored blocks, and what became of them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import func, select, update

from semshare_agents.registry import tables as t
from semshare_agents.registry.database import Part


@dataclass(frozen=True)
class StoredBlock:
    """A stored block, as an eviction policy wants to know it.

    Attributes:
        key: Its KV in the store.
        start: First token in its turn.
        length: Tokens.
        tenant: Whose it is.
        session: Conversation of the newest turn that has it; empty for a stateless call.
        used_at: When that turn was stored, in seconds since the epoch.
    """

    key: str
    start: int
    length: int
    tenant: str
    session: str
    used_at: float


class Eviction(Part):
    """The part of the registry that eviction uses."""

    async def kept_blocks(self) -> list[StoredBlock]:
        """All blocks, those used longest ago first; of one turn the deepest first."""
        links = t.turn_blocks
        newest = select(links.c.block_id, func.max(links.c.turn_id).label("turn_id")).group_by(links.c.block_id)
        last = newest.subquery()
        query = (
            select(
                t.blocks.c.key,
                t.blocks.c.start,
                t.blocks.c.length,
                t.tenants.c.name.label("tenant"),
                t.sessions.c.name.label("session"),
                t.turns.c.created_at,
            )
            .join(last, last.c.block_id == t.blocks.c.id)
            .join(t.turns, t.turns.c.id == last.c.turn_id)
            .join(t.scopes, t.scopes.c.id == t.blocks.c.scope_id)
            .join(t.tenants, t.tenants.c.id == t.scopes.c.tenant_id)
            .outerjoin(t.sessions, t.sessions.c.id == t.turns.c.session_id)
            .order_by(t.turns.c.id, t.blocks.c.start.desc())
        )
        async with self.database.reading() as c:
            rows = (await c.execute(query)).all()
        return [StoredBlock(r.key, r.start, r.length, r.tenant, r.session or "", r.created_at) for r in rows]

    async def demoted(self, durable: Sequence[str], tokens: int, detail: str) -> None:
        """Blocks left a tier and another still has them.

        Args:
            durable: Those that are on disk now: every process may use them.
            tokens: Tokens of all of them.
            detail: The tier, and why.
        """
        event = {"at": time.time(), "kind": "demote", "tokens": tokens, "detail": detail}
        async with self.database.writing() as c:
            held = self.database.any_of(t.blocks.c.key, durable)
            await c.execute(update(t.blocks).where(held, t.blocks.c.holder.is_not(None)).values(holder=None))
            await self.database.log(c, t.events, [event])
