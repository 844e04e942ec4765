"""What the registry's rows say of each other: the counts that `semshare verify` compares."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager

from sqlalchemy import and_, delete, func, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from semshare_agents.registry import tables as t


class CheckQueries:
    """The part of the registry that audits use; these read whole tables."""

    def _reading(self) -> AbstractAsyncContextManager[AsyncConnection]:
        raise NotImplementedError

    def _writing(self) -> AbstractAsyncContextManager[AsyncConnection]:
        raise NotImplementedError

    async def unused(self) -> list[str]:
        """Keys of blocks that no turn refers to: nothing can find them, and nothing would ever drop them."""
        used = select(t.turn_blocks.c.block_id).where(t.turn_blocks.c.block_id == t.blocks.c.id)
        async with self._reading() as c:
            return list((await c.execute(select(t.blocks.c.key).where(~used.exists()))).scalars())

    async def broken_links(self) -> int:
        """Rows that link a turn or a block that is gone; only a damaged database has such."""
        async with self._reading() as c:
            return sum(
                [(await c.execute(select(func.count()).select_from(x).where(w))).scalar_one() for x, w in _BROKEN]
            )

    async def drop_broken_links(self) -> None:
        """Forget what `broken_links` counts."""
        async with self._writing() as c:
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
