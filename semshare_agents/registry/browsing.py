"""What people look at: turns and sessions, what was said in them, and counts over all."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import ColumnElement, Select, and_, func, select

from semshare_agents.errors import SealedError
from semshare_agents.registry import tables as t
from semshare_agents.registry.database import Part
from semshare_agents.registry.naming import missing, session_id
from semshare_agents.registry.notes import without_note


@dataclass(frozen=True)
class TurnRow:
    """A stored turn without its texts.

    Attributes:
        id: The turn.
        created_at: Seconds since the epoch.
        tenant: Whose it is.
        session: Its session; None for stateless calls.
        model: What its model was loaded from.
        reuse_class: The loosest kind used.
        prompt_tokens: Tokens of the prompt.
        exact_tokens: Length of the prefix whose KV equals a cold run's by now.
        ttft_seconds: From the call to the first piece of the answer.
        predicted_cold_seconds: What a full prefill was predicted to take.
        report: The report, as JSON.
    """

    id: int
    created_at: float
    tenant: str
    session: str | None
    model: str
    reuse_class: str
    prompt_tokens: int
    exact_tokens: int
    ttft_seconds: float
    predicted_cold_seconds: float
    report: str


class Browsing(Part):
    """The part of the registry that the page and `semshare turns` use; raises `SealedError` where a key is missing."""

    async def turns(self, limit: int = 50) -> list[SimpleNamespace]:
        """The newest turns with tenant and session names, newest first.

        Raises:
            SealedError: they are encrypted with a key that is not given.
        """
        query = _turns().add_columns(t.turns.c.depth, t.turns.c.answer).order_by(t.turns.c.id.desc()).limit(limit)
        async with self.database.reading() as c:
            return [SimpleNamespace(**self._opened(row._mapping)) for row in await c.execute(query)]

    async def browse(
        self, tenant: str, *, session: str | None = None, before: int | None = None, limit: int = 50
    ) -> list[TurnRow]:
        """A tenant's newest turns, newest first.

        Args:
            tenant: Whose turns; no other's are ever told.
            session: Only those of one session.
            before: Only turns with smaller ids.
            limit: At most so many.
        """
        query = _turns().where(t.tenants.c.name == tenant).order_by(t.turns.c.id.desc()).limit(limit)
        if session is not None:
            query = query.where(t.sessions.c.name == session)
        if before is not None:
            query = query.where(t.turns.c.id < before)
        async with self.database.reading() as c:
            return [TurnRow(**self._opened(row._mapping)) for row in await c.execute(query)]

    async def missing(self, tenant: str, session: str | None = None) -> str:
        """What is not stored of a tenant and its session, with the nearest names; empty where all is there."""
        async with self.database.reading() as c:
            return await missing(c, tenant, session)

    async def turn(self, turn_id: int, tenant: str | None = None) -> tuple[TurnRow, NDArray[np.int32]] | None:
        """A turn and its tokens, prompt first; None where there is none.

        Args:
            turn_id: The turn.
            tenant: Whose it must be; None for anybody's.
        """
        query = _turns().add_columns(t.turns.c.tokens).where(t.turns.c.id == turn_id)
        if tenant is not None:
            query = query.where(t.tenants.c.name == tenant)
        async with self.database.reading() as c:
            row = (await c.execute(query)).first()
        if row is None:
            return None
        values = self._opened(row._mapping)
        tokens = np.frombuffer(values.pop("tokens"), dtype="<i4")
        return TurnRow(**values), tokens

    async def sessions(self, tenant: str, limit: int = 50) -> list[dict[str, Any]]:
        """A tenant's sessions, the one used last first: name, when it was used, and its turns."""
        count = select(func.count()).where(t.turns.c.session_id == t.sessions.c.id, _finished()).scalar_subquery()
        query = (
            select(t.sessions.c.name, t.sessions.c.used_at, count.label("turns"))
            .join(t.tenants, t.tenants.c.id == t.sessions.c.tenant_id)
            .where(t.tenants.c.name == tenant)
            .order_by(t.sessions.c.used_at.desc())
            .limit(limit)
        )
        async with self.database.reading() as c:
            return [dict(row._mapping) for row in await c.execute(query)]

    async def history(self, tenant: str, session: str) -> list[dict[str, Any]]:
        """The messages of a session so far: its newest turn's prompt and answer; empty for a new session.

        Raises:
            SealedError: they are encrypted with a key that is not given.
        """
        mine = session_id(tenant, session).scalar_subquery()
        query = (
            select(t.turns.c.id, t.turns.c.messages, t.turns.c.answer)
            .where(t.turns.c.session_id == mine, _finished())
            .order_by(t.turns.c.id.desc())
            .limit(1)
        )
        async with self.database.reading() as c:
            row = (await c.execute(query)).first()
        if row is None:
            return []
        turn = self.database.cipher.decrypted(row._mapping)
        return [*json.loads(turn["messages"]), {"role": "assistant", "content": turn["answer"]}]

    async def statistics(self) -> dict[str, Any]:
        """Counts and sums over the whole registry."""
        kind, tokens, size = t.events.c.kind, t.events.c.tokens, t.blocks.c.size_bytes
        async with self.database.reading() as c:
            by_class = [dict(row._mapping) for row in await c.execute(_turns_by_class())]
            by_kind = (await c.execute(select(kind, func.sum(tokens).label("tokens")).group_by(kind))).all()
            blocks, block_bytes = (await c.execute(select(func.count(), func.coalesce(func.sum(size), 0)))).one()
            sessions = (await c.execute(select(func.count()).select_from(t.sessions))).scalar_one()
            tenants = (await c.execute(select(func.count()).select_from(t.tenants))).scalar_one()
        return {
            "tenants": tenants,
            "sessions": sessions,
            "turns": {figures.pop("reuse_class"): figures for figures in by_class},
            "tokens_by_event": {row.kind: row.tokens for row in by_kind},
            "blocks": blocks,
            "block_bytes": int(block_bytes),
        }

    async def drift_of(self, tenant: str) -> list[dict[str, Any]]:
        """A tenant's guard samples by class: `reuse_class`, `samples`, `kl_mean`, `agreement`."""
        samples = t.guard_samples.c
        query = (
            select(
                samples.reuse_class,
                func.count().label("samples"),
                func.avg(samples.kl).label("kl_mean"),
                func.avg(samples.agreement).label("agreement"),
            )
            .join(t.scopes, t.scopes.c.id == samples.scope_id)
            .join(t.tenants, and_(t.tenants.c.id == t.scopes.c.tenant_id, t.tenants.c.name == tenant))
            .group_by(samples.reuse_class)
        )
        async with self.database.reading() as c:
            return [dict(row._mapping) for row in await c.execute(query)]

    async def savings(self, limit: int = 10_000) -> dict[str, dict[str, float]]:
        """What the newest turns saved of the time to their first tokens, by class, net of what their look-ups cost.

        Args:
            limit: At most so many turns.

        Returns:
            `seconds` with `low` and `high`, over `known` turns; of `unknown` ones nobody knows: no full prefill of like
            length was measured, they are of an earlier version, or encrypted with a key that is not given.
        """
        columns = (t.turns.c.id, t.turns.c.reuse_class, t.turns.c.report)
        query = select(*columns).where(_finished()).order_by(t.turns.c.id.desc()).limit(limit)
        totals: dict[str, dict[str, float]] = {}
        async with self.database.reading() as c:
            for row in await c.execute(query):
                empty = {"known": 0, "unknown": 0, "seconds": 0.0, "low": 0.0, "high": 0.0}
                total = totals.setdefault(row.reuse_class, empty)
                saved = self._saved(dict(row._mapping))
                total["known" if saved else "unknown"] += 1
                for name in ("seconds", "low", "high"):
                    total[name] += saved.get(name, 0.0)
        return totals

    def _opened(self, row: Mapping[Any, Any]) -> dict[str, Any]:
        """A row as people see it: opened, and without what integrations noted."""
        values = self.database.cipher.decrypted(row)
        return {**values, "report": without_note(values["report"])}

    def _saved(self, row: Mapping[str, Any]) -> dict[str, float]:
        """What a turn saved; empty where that is not known."""
        try:
            return json.loads(self.database.cipher.decrypted(row)["report"]).get("saved") or {}
        except SealedError:
            return {}


def _turns() -> Select[Any]:
    columns = [t.turns.c[name] for name in TurnRow.__annotations__ if name in t.turns.c]
    return (
        select(
            *columns,
            t.scopes.c.model,
            t.sessions.c.name.label("session"),
            t.tenants.c.name.label("tenant"),
        )
        .join(t.scopes, t.scopes.c.id == t.turns.c.scope_id)
        .join(t.tenants, t.tenants.c.id == t.scopes.c.tenant_id)
        .outerjoin(t.sessions, t.sessions.c.id == t.turns.c.session_id)
        .where(_finished())
    )


def _finished() -> ColumnElement[bool]:
    return t.turns.c.reuse_class != t.UNFINISHED


def _turns_by_class() -> Select[Any]:
    turns = t.turns.c
    columns = (
        turns.reuse_class,
        func.count().label("turns"),
        func.sum(turns.prompt_tokens).label("prompt_tokens"),
        func.sum(turns.ttft_seconds).label("ttft_seconds"),
        func.sum(turns.predicted_cold_seconds).label("predicted_cold_seconds"),
    )
    return select(*columns).where(_finished()).group_by(turns.reuse_class)
