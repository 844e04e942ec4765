"""The drift monitor's records: samples of drift, and what is narrowed because of them."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from sqlalchemy import and_, delete, func, insert, select

from semshare_agents.errors import ForgottenError
from semshare_agents.registry import tables as t
from semshare_agents.registry.database import Part
from semshare_agents.registry.naming import session_id
from semshare_agents.values import Reuse, Scope


@dataclass(frozen=True)
class DriftSample:
    """A turn measured against a cold run of it.

    Attributes:
        turn_id: The turn.
        reuse_class: `moved` or `semantic`.
        kl: Mean Kullback-Leibler divergence of the cold run to the turn, in nats.
        agreement: Share of tokens at which both find the same token likeliest.
        tokens: Answer tokens compared.
    """

    turn_id: int
    reuse_class: str
    kl: float
    agreement: float
    tokens: int


@dataclass(frozen=True)
class Limit:
    """The loosest reuse that the drift monitor allows a tenant or session.

    Attributes:
        reuse: The word; `semantic` limits nothing.
        reason: Why it is what it is.
        since: When it came about, in seconds since the epoch; earlier samples no longer count.
    """

    reuse: Reuse = Reuse.SEMANTIC
    reason: str = ""
    since: float = 0.0


class Drift(Part):
    """The part of the registry that the drift monitor uses; `None` for a session stands for the whole tenant."""

    async def add_drift(self, scope: Scope, sample: DriftSample) -> None:
        """Record a sample; its session is that of its turn.

        Raises:
            ForgottenError: the turn is gone.
        """
        session = select(t.turns.c.session_id).where(t.turns.c.id == sample.turn_id)
        async with self.database.writing() as c:
            turn = (await c.execute(session)).first()
            if turn is None:
                raise ForgottenError(f"turn {sample.turn_id} was forgotten")
            values = {"scope_id": scope.id, "session_id": turn.session_id, "at": time.time(), **vars(sample)}
            await self.database.log(c, t.guard_samples, [values])

    async def drift(self, scope: Scope, session: str | None, reuse_class: str, since: float, limit: int) -> list[float]:
        """KL of the newest samples of one class, oldest first, at most `limit` and none from `since` or before."""
        samples = t.guard_samples
        query = (
            select(samples.c.kl)
            .where(samples.c.scope_id == scope.id, samples.c.reuse_class == reuse_class, samples.c.at > since)
            .order_by(samples.c.id.desc())
            .limit(limit)
        )
        if session is not None:
            query = query.where(samples.c.session_id == session_id(scope.tenant, session).scalar_subquery())
        async with self.database.reading() as c:
            return list((await c.execute(query)).scalars())[::-1]

    async def limits(self, scope: Scope) -> dict[str | None, Limit]:
        """A scope's limits by session name."""
        query = (
            select(t.guard_limits, t.sessions.c.name)
            .outerjoin(t.sessions, t.sessions.c.id == t.guard_limits.c.session_id)
            .where(t.guard_limits.c.scope_id == scope.id)
        )
        async with self.database.reading() as c:
            return {row.name: Limit(Reuse(row.reuse), row.reason, row.since) for row in await c.execute(query)}

    async def set_limit(self, scope: Scope, session: str | None, limit: Limit, kind: str, turn_id: int) -> None:
        """Put a limit in the place of the one before, and log it.

        Args:
            scope: Tenant and model.
            session: The session; it must have a stored turn.
            limit: From now on.
            kind: `narrow` or `widen`.
            turn_id: The turn whose sample brought it about.

        Raises:
            ForgottenError: the turn is gone.
        """
        async with self.database.writing() as c:
            turn = await c.execute(select(t.turns.c.session_id).where(t.turns.c.id == turn_id))
            if (row := turn.first()) is None:
                raise ForgottenError(f"turn {turn_id} was forgotten")
            found = None if session is None else row.session_id
            limits = t.guard_limits
            mine = limits.c.session_id.is_(None) if found is None else limits.c.session_id == found
            await c.execute(delete(limits).where(and_(limits.c.scope_id == scope.id, mine)))
            values = {"reuse": str(limit.reuse), "reason": limit.reason, "since": limit.since}
            await c.execute(insert(limits).values(scope_id=scope.id, session_id=found, **values))
            who = f"tenant {scope.tenant}" if session is None else f"session {session} of tenant {scope.tenant}"
            detail = f"{who}, reuse up to {limit.reuse}: {limit.reason}"
            event = {"at": limit.since, "turn_id": turn_id, "kind": kind, "tokens": 0, "detail": detail}
            await self.database.log(c, t.events, [event])

    async def guard_statistics(self) -> dict[str, Any]:
        """Samples by class, and what is narrowed now."""
        samples = t.guard_samples.c
        by_class = select(
            samples.reuse_class,
            func.count().label("samples"),
            func.avg(samples.kl).label("kl_mean"),
            func.avg(samples.agreement).label("agreement"),
        ).group_by(samples.reuse_class)
        narrowed = (
            select(t.guard_limits, t.sessions.c.name.label("session"), t.tenants.c.name.label("tenant"))
            .join(t.scopes, t.scopes.c.id == t.guard_limits.c.scope_id)
            .join(t.tenants, t.tenants.c.id == t.scopes.c.tenant_id)
            .outerjoin(t.sessions, t.sessions.c.id == t.guard_limits.c.session_id)
            .where(t.guard_limits.c.reuse != str(Reuse.SEMANTIC))
            .order_by(t.guard_limits.c.since)
        )
        async with self.database.reading() as c:
            figures = {
                row.reuse_class: {"samples": row.samples, "kl_mean": row.kl_mean, "agreement": row.agreement}
                for row in await c.execute(by_class)
            }
            names = ("tenant", "session", "reuse", "reason", "since")
            limits = [{name: getattr(row, name) for name in names} for row in await c.execute(narrowed)]
        return {"samples": figures, "limits": limits}
