"""Whether what a caller names is stored, and the names that are nearest to it where it is not."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Select, select
from sqlalchemy.ext.asyncio import AsyncConnection

from semshare_agents.errors import nearest
from semshare_agents.registry import tables as t
from semshare_agents.registry.guarding import session_id

COMPARED_NAMES = 5000
"""So many of the names used last are compared: a typing error is made in a name that one has just read."""


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
