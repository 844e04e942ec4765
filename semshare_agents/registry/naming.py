"""Tenants and sessions by name: their ids, making them, and what is nearest to a name that is not stored."""

from __future__ import annotations

import time
from typing import Any

from sqlalchemy import Select, and_, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from semshare_agents.errors import nearest
from semshare_agents.registry import tables as t

COMPARED_NAMES = 5000
"""So many of the names used last are compared: a typing error is made in a name that one has just read."""


def session_id(tenant: str, session: str) -> Select[tuple[int]]:
    """The id of a tenant's session."""
    return (
        select(t.sessions.c.id)
        .join(t.tenants, t.tenants.c.id == t.sessions.c.tenant_id)
        .where(t.tenants.c.name == tenant, t.sessions.c.name == session)
    )


async def ensure_tenant(c: AsyncConnection, name: str) -> int:
    """A tenant's id; made when it is new."""
    row = (await c.execute(select(t.tenants.c.id).where(t.tenants.c.name == name))).scalar()
    if row is None:
        row = (await c.execute(insert(t.tenants).values(name=name).returning(t.tenants.c.id))).scalar_one()
    return int(row)


async def ensure_session(c: AsyncConnection, tenant: str, name: str) -> int:
    """The id of a tenant's session, which is used now; made when it is new."""
    tenant_id, now = await ensure_tenant(c, tenant), time.time()
    where = and_(t.sessions.c.tenant_id == tenant_id, t.sessions.c.name == name)
    row = (await c.execute(update(t.sessions).where(where).values(used_at=now).returning(t.sessions.c.id))).scalar()
    if row is None:
        values = {"tenant_id": tenant_id, "name": name, "created_at": now, "used_at": now}
        row = (await c.execute(insert(t.sessions).values(**values).returning(t.sessions.c.id))).scalar_one()
    return int(row)


async def missing(c: AsyncConnection, tenant: str, session: str | None = None, turn_id: int | None = None) -> str:
    """What is not stored of a tenant and of its session or turn, with the nearest names; empty where all is there."""
    tenants = select(t.tenants.c.name).order_by(t.tenants.c.id.desc())
    if (await c.execute(tenants.where(t.tenants.c.name == tenant))).first() is None:
        return f"there is no tenant {tenant!r}{await _nearest(c, tenants, tenant)}"
    if session is not None and (await c.execute(session_id(tenant, session))).first() is None:
        sessions = (
            select(t.sessions.c.name)
            .join(t.tenants, t.tenants.c.id == t.sessions.c.tenant_id)
            .where(t.tenants.c.name == tenant)
            .order_by(t.sessions.c.used_at.desc())
        )
        return f"tenant {tenant!r} has no session {session!r}{await _nearest(c, sessions, session)}"
    if turn_id is not None and (await c.execute(_turn(tenant, turn_id))).first() is None:
        return f"tenant {tenant!r} has no turn {turn_id}: `semshare turns` lists them"
    return ""


def _turn(tenant: str, turn_id: int) -> Select[Any]:
    return (
        select(t.turns.c.id)
        .join(t.scopes, t.scopes.c.id == t.turns.c.scope_id)
        .join(t.tenants, t.tenants.c.id == t.scopes.c.tenant_id)
        .where(t.turns.c.id == turn_id, t.tenants.c.name == tenant)
    )


async def _nearest(c: AsyncConnection, names: Select[Any], name: str) -> str:
    return nearest(list((await c.execute(names.limit(COMPARED_NAMES))).scalars()), name)
