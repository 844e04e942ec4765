"""Whether rows agree with each other and with what processes have: what `semshare verify` and recovery compare."""

from __future__ import annotations

from sqlalchemy import and_, delete, func, or_, select

from semshare_agents.registry import tables as t
from semshare_agents.registry.database import Part
from semshare_agents.registry.engine import wrapped
from semshare_agents.store.base import BlockInfo


class Consistency(Part):
    """The part of the registry that audits use; it reads whole tables."""

    async def blocks(self) -> list[tuple[BlockInfo, bool]]:
        """Every visible block and whether it is on disk, oldest first."""
        query = (
            select(t.blocks.c.key, t.blocks.c.length, t.blocks.c.holder, t.scopes.c.fingerprint)
            .join(t.scopes, t.scopes.c.id == t.blocks.c.scope_id)
            .where(self.database.visible())
            .order_by(t.blocks.c.id)
        )
        async with self.database.reading() as c:
            return [(BlockInfo(r.key, r.fingerprint, r.length), r.holder is None) for r in await c.execute(query)]

    async def foreign(self) -> list[str]:
        """Keys of blocks that another process has, or had, in its RAM alone."""
        return [key for key, _ in await self._foreign()]

    async def abandoned(self) -> list[str]:
        """Those of `foreign` whose process has ended, as far as the server knows; SQLite has no server."""
        if (liveness := self.database.liveness) is None:
            return []
        foreign = await self._foreign()
        async with wrapped():
            ended = set(await liveness.ended({holder for _, holder in foreign}))
        return [key for key, holder in foreign if holder in ended]

    async def _foreign(self) -> list[tuple[str, str]]:
        holder = t.blocks.c.holder
        query = select(t.blocks.c.key, holder).where(holder.is_not(None), holder != self.database.holder)
        async with self.database.reading() as c:
            return [(row.key, row.holder) for row in await c.execute(query)]

    async def unused(self) -> list[str]:
        """Keys of blocks that no turn refers to: nothing can find them, and nothing would ever drop them."""
        used = select(t.turn_blocks.c.block_id).where(t.turn_blocks.c.block_id == t.blocks.c.id)
        async with self.database.reading() as c:
            return list((await c.execute(select(t.blocks.c.key).where(~used.exists()))).scalars())

    async def broken_links(self) -> int:
        """Rows that link a turn or a block that is gone; only a damaged database has such."""
        async with self.database.reading() as c:
            return sum(
                [(await c.execute(select(func.count()).select_from(x).where(w))).scalar_one() for x, w in _BROKEN]
            )

    async def drop_broken_links(self) -> None:
        """Forget what `broken_links` counts."""
        async with self.database.writing() as c:
            for table, where in _BROKEN:
                await c.execute(delete(table).where(where))


_BROKEN = (
    (
        t.turn_blocks,
        or_(
            ~select(t.blocks.c.id).where(t.blocks.c.id == t.turn_blocks.c.block_id).exists(),
            ~select(t.turns.c.id).where(t.turns.c.id == t.turn_blocks.c.turn_id).exists(),
        ),
    ),
    (t.bands, ~select(t.turns.c.id).where(t.turns.c.id == t.bands.c.turn_id).exists()),
    (
        t.pins,
        and_(
            ~select(t.sessions.c.id).where(t.sessions.c.id == t.pins.c.session_id).exists(),
            ~select(t.turns.c.id).where(t.turns.c.id == t.pins.c.turn_id).exists(),
        ),
    ),
)
