"""Pins: sessions and turns whose blocks may not be evicted for a time."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, and_, delete, func, insert, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from semshare_agents.errors import NotStoredError, PinError
from semshare_agents.registry import tables as t
from semshare_agents.registry.database import Part
from semshare_agents.registry.naming import missing, session_id


@dataclass(frozen=True)
class Pin:
    """A session or a turn that is pinned.

    Attributes:
        tenant: Whose.
        session: The session; None where a turn is pinned.
        turn_id: The turn; None where a session is pinned.
        begins_at: When it was pinned, in seconds since the epoch.
        ends_at: When the pin ends; None: when it is unpinned.
        blocks: How many blocks it holds.
        size_bytes: KV of these; blocks that several pins hold count for each.
    """

    tenant: str
    session: str | None
    turn_id: int | None
    begins_at: float
    ends_at: float | None
    blocks: int
    size_bytes: int


@dataclass(frozen=True)
class PinnedBlock:
    """A block that a pin holds.

    Attributes:
        key: Its KV in the store.
        tenant: Whose it is.
        size_bytes: Its KV.
        ends_at: When the last of its pins ends; infinite: when it is unpinned.
    """

    key: str
    tenant: str
    size_bytes: int
    ends_at: float


class Pinning(Part):
    """The part of the registry that pins. A pin is its tenant's own and holds blocks of that tenant alone.

    A pin ends by the clock. Where a clock was set back, a pin of the future begins anew: it never lasts longer than it
    was given for, counted from when the clock was put right.
    """

    async def pin(
        self,
        tenant: str,
        *,
        session: str | None = None,
        turn_id: int | None = None,
        seconds: float | None = None,
        check: Callable[[Sequence[PinnedBlock]], None] = lambda _: None,
    ) -> Pin:
        """Pin a session, with the turns that it will have, or a turn; a pin that is there already is replaced.

        Args:
            tenant: Whose.
            session: This session, or
            turn_id: this turn.
            seconds: For how long; None: until it is unpinned.
            check: Is given all that is then pinned, whoever's it is; what it raises undoes the pin.

        Raises:
            PinError: there is no such session or turn.
        """
        now = time.time()
        async with self.database.writing() as c:
            tenant_id, what = await self._pinnable(c, tenant, session, turn_id)
            ended = t.pins.c.ends_at <= now
            await c.execute(delete(t.pins).where(or_(ended, _is(what))))
            values = {"tenant_id": tenant_id, **what, "begins_at": now}
            await c.execute(insert(t.pins).values(**values, ends_at=None if seconds is None else now + seconds))
            check(await _blocks(c, now))
            (made,) = await _pins(c, now, _is(what))
        return made

    async def unpin(self, tenant: str, *, session: str | None = None, turn_id: int | None = None) -> bool:
        """End the pin of a session or a turn; whether there was one.

        Raises:
            NotStoredError: there is no such session or turn.
        """
        now = time.time()
        whose = select(t.tenants.c.id).where(t.tenants.c.name == tenant).scalar_subquery()
        mine = t.pins.c.session_id == session_id(tenant, session).scalar_subquery() if session is not None else None
        what = and_(t.pins.c.tenant_id == whose, t.pins.c.turn_id == turn_id if mine is None else mine)
        async with self.database.writing() as c:
            if problem := await missing(c, tenant, session, turn_id):
                raise NotStoredError(problem)
            ends = list((await c.execute(delete(t.pins).where(what).returning(t.pins.c.ends_at))).scalars())
        return any(end is None or end > now for end in ends)

    async def pins(self, tenant: str | None = None) -> list[Pin]:
        """Pins that have not ended, of a tenant or of all, oldest first."""
        where = [] if tenant is None else [t.tenants.c.name == tenant]
        async with self.database.reading() as c:
            return await _pins(c, time.time(), *where)

    async def pinned_blocks(self) -> list[PinnedBlock]:
        """Blocks that pins hold now."""
        now = time.time()
        async with self.database.reading() as c:
            newest = (await c.execute(select(func.max(t.pins.c.begins_at)))).scalar_one()
            if newest is None:
                return []
            if newest <= now:
                return await _blocks(c, now)
        async with self.database.writing() as c:
            anew = {"begins_at": now, "ends_at": t.pins.c.ends_at - t.pins.c.begins_at + now}
            await c.execute(update(t.pins).where(t.pins.c.begins_at > now).values(**anew))
            return await _blocks(c, now)

    @staticmethod
    async def _pinnable(
        c: AsyncConnection, tenant: str, session: str | None, turn_id: int | None
    ) -> tuple[int, dict[str, Any]]:
        """The tenant's id, and which column of a pin has which id."""
        if session is not None:
            row = (await c.execute(session_id(tenant, session).add_columns(t.sessions.c.tenant_id))).first()
            column = "session_id"
        else:
            turns = select(t.scopes.c.tenant_id, t.turns.c.id).join(t.scopes, t.scopes.c.id == t.turns.c.scope_id)
            turns = turns.join(t.tenants, t.tenants.c.id == t.scopes.c.tenant_id)
            row = (await c.execute(turns.where(t.turns.c.id == turn_id, t.tenants.c.name == tenant))).first()
            column = "turn_id"
        if row is None:
            raise PinError(f"{await missing(c, tenant, session, turn_id)}; pin it once it was stored")
        return int(row.tenant_id), {column: int(row.id)}


def _is(what: dict[str, Any]) -> ColumnElement[bool]:
    return and_(*(t.pins.c[column] == value for column, value in what.items()))


def _holds(now: float) -> ColumnElement[bool]:
    return or_(t.pins.c.ends_at.is_(None), t.pins.c.ends_at > now)


_MINE = t.blocks.c.scope_id.in_(select(t.scopes.c.id).where(t.scopes.c.tenant_id == t.pins.c.tenant_id))
_HELD = (
    # Outer joins, which SQLite takes in this order: it would read all blocks before a few pins.
    t.pins.outerjoin(
        t.turns,
        # Each by its index: a session's turns, or the one turn.
        or_(t.turns.c.id == t.pins.c.turn_id, t.turns.c.session_id == t.pins.c.session_id),
    )
    .outerjoin(t.turn_blocks, t.turn_blocks.c.turn_id == t.turns.c.id)
    .outerjoin(t.blocks, and_(t.blocks.c.id == t.turn_blocks.c.block_id, _MINE))
)


async def _blocks(c: AsyncConnection, now: float) -> list[PinnedBlock]:
    block, ends_at = t.blocks.c, t.pins.c.ends_at
    query = (
        select(
            block.key,
            block.size_bytes,
            t.tenants.c.name,
            func.max(ends_at).label("ends_at"),
            func.count(ends_at).label("ending"),
            func.count().label("all"),
        )
        .select_from(_HELD.join(t.tenants, t.tenants.c.id == t.pins.c.tenant_id))
        .where(_holds(now))
        .group_by(block.id, block.key, block.size_bytes, t.tenants.c.name)
        .order_by(block.id)
    )
    rows = (await c.execute(query)).all()
    ends = [row.ends_at if row.ending == row.all else float("inf") for row in rows]
    return [PinnedBlock(r.key, r.name, int(r.size_bytes), end) for r, end in zip(rows, ends, strict=True) if r.key]


async def _pins(c: AsyncConnection, now: float, *where: ColumnElement[bool]) -> list[Pin]:
    held = select(t.pins.c.id.label("pin_id"), t.blocks.c.id, t.blocks.c.size_bytes).select_from(_HELD).distinct()
    sizes = held.subquery()
    query = (
        select(
            t.pins,
            t.tenants.c.name.label("tenant"),
            t.sessions.c.name.label("session"),
            func.count(sizes.c.id).label("blocks"),
            func.coalesce(func.sum(sizes.c.size_bytes), 0).label("size_bytes"),
        )
        .join(t.tenants, t.tenants.c.id == t.pins.c.tenant_id)
        .outerjoin(t.sessions, t.sessions.c.id == t.pins.c.session_id)
        .outerjoin(sizes, sizes.c.pin_id == t.pins.c.id)
        .where(_holds(now), *where)
        .group_by(t.pins.c.id, t.tenants.c.name, t.sessions.c.name)
        .order_by(t.pins.c.id)
    )
    rows = (await c.execute(query)).all()
    return [Pin(r.tenant, r.session, r.turn_id, r.begins_at, r.ends_at, int(r.blocks), int(r.size_bytes)) for r in rows]
