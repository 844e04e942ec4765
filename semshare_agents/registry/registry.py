"""The registry: opening it, scopes, sessions, and what there is. Its queries stand in files of their own."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import blake3
from sqlalchemy import Row, and_, func, insert, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from semshare_agents.errors import RegistryUnavailableError
from semshare_agents.registry import schema
from semshare_agents.registry import tables as t
from semshare_agents.registry.browsing import BrowseQueries
from semshare_agents.registry.checking import CheckQueries
from semshare_agents.registry.engine import make_engine, wrapped
from semshare_agents.registry.finding import FindQueries
from semshare_agents.registry.guarding import GuardQueries, session_id
from semshare_agents.registry.presence import Presence
from semshare_agents.registry.writing import WriteQueries
from semshare_agents.store.base import BlockInfo
from semshare_agents.values import Scope

EVENT_ROWS = 200_000


class Registry(FindQueries, WriteQueries, GuardQueries, CheckQueries, BrowseQueries):
    """Async access to one registry database.

    Use `Registry.open`. Blocks held in another process's RAM are invisible here; `holder` names this process.
    """

    def __init__(self, engine: AsyncEngine):
        self._engine = engine
        self._read = engine.execution_options(isolation_level="AUTOCOMMIT", readonly=True)
        self.dialect = engine.dialect.name
        self.holder = uuid4().hex
        self.event_rows = EVENT_ROWS
        self.presence = Presence(self._read, self.holder) if self.dialect == "postgresql" else None
        self._scopes: dict[tuple[str, str], Scope] = {}

    @classmethod
    async def open(
        cls, url: str, *, timeout_seconds: float = 10.0, upgrade: bool = False, event_rows: int = EVENT_ROWS
    ) -> Registry:
        """Open a database, creating its tables when it is new.

        Args:
            url: An async SQLAlchemy URL.
            timeout_seconds: How long a server may take to answer.
            upgrade: Whether a database of an older schema version may be upgraded: nothing else uses it.
            event_rows: Most rows of the log of events, and of the guard's samples; the oldest go first.

        Raises:
            ConfigurationError: the URL is malformed.
            RegistryUnavailableError: the database cannot be reached.
            SchemaVersionError: it belongs to another schema version.
        """
        registry = cls(await asyncio.to_thread(make_engine, url, timeout_seconds))
        registry.event_rows = event_rows
        try:
            await registry._prepare(url, timeout_seconds, upgrade)
        except BaseException:
            await registry.close()
            raise
        return registry

    async def _prepare(self, url: str, timeout_seconds: float, upgrade: bool) -> None:
        try:
            async with self._read.connect() as connection:
                found = await connection.run_sync(schema.version)
            if found != t.SCHEMA_VERSION:
                schema.check(found, upgrade)
                await schema.migrate(url, timeout_seconds)
        except SQLAlchemyError as e:
            cause = getattr(e, "orig", None) or e
            raise RegistryUnavailableError(f"the registry database cannot be opened: {cause}") from e
        except OSError as e:
            why = str(e) or f"no connection within {timeout_seconds:g} seconds"
            raise RegistryUnavailableError(f"the registry database does not answer: {why}") from e

    async def close(self) -> None:
        """Close all connections."""
        if self.presence is not None:
            await self.presence.close()
        await self._engine.dispose()

    async def announce(self) -> None:
        """Let other processes know that this one lives; SQLite has nobody to tell.

        Raises:
            RegistryUnavailableError: the database fails.
        """
        if self.presence is not None:
            async with wrapped():
                await self.presence.announce()

    @asynccontextmanager
    async def _reading(self) -> AsyncIterator[AsyncConnection]:
        async with wrapped(), self._read.connect() as connection:
            yield connection

    @asynccontextmanager
    async def _writing(self) -> AsyncIterator[AsyncConnection]:
        async with wrapped(), self._engine.begin() as connection:
            yield connection

    # --- scopes and sessions

    async def scope(self, tenant: str, fingerprint: str, model: str = "") -> Scope:
        """The scope of a tenant and a model, made when it is new."""
        known = self._scopes.get((tenant, fingerprint))
        if known is not None:
            return known
        async with self._writing() as c:
            tenant_id = await self._tenant(c, tenant)
            where = and_(t.scopes.c.tenant_id == tenant_id, t.scopes.c.fingerprint == fingerprint)
            row = (await c.execute(select(t.scopes.c.id).where(where))).scalar()
            if row is None:
                values = {"tenant_id": tenant_id, "fingerprint": fingerprint, "model": model}
                row = (await c.execute(insert(t.scopes).values(**values).returning(t.scopes.c.id))).scalar_one()
        seed = blake3.blake3(f"{len(tenant)}|{tenant}|{fingerprint}".encode()).digest()
        scope = Scope(int(row), tenant, fingerprint, seed)
        self._scopes[tenant, fingerprint] = scope
        return scope

    async def history(self, tenant: str, session: str) -> list[dict[str, Any]]:
        """The messages of a session so far: its newest turn's prompt and answer; empty for a new session."""
        mine = session_id(tenant, session).scalar_subquery()
        query = (
            select(t.turns.c.messages, t.turns.c.answer)
            .where(t.turns.c.session_id == mine)
            .order_by(t.turns.c.id.desc())
            .limit(1)
        )
        async with self._reading() as c:
            row = (await c.execute(query)).first()
        return [] if row is None else [*json.loads(row.messages), {"role": "assistant", "content": row.answer}]

    # --- looking at it

    async def blocks(self) -> list[tuple[BlockInfo, bool]]:
        """Every visible block and whether it is on disk, oldest first."""
        query = (
            select(t.blocks.c.key, t.blocks.c.length, t.blocks.c.holder, t.scopes.c.fingerprint)
            .join(t.scopes, t.scopes.c.id == t.blocks.c.scope_id)
            .where(self._visible())
            .order_by(t.blocks.c.id)
        )
        async with self._reading() as c:
            return [(BlockInfo(r.key, r.fingerprint, r.length), r.holder is None) for r in await c.execute(query)]

    async def foreign(self) -> list[str]:
        """Keys of blocks that another process has, or had, in its RAM alone."""
        return [key for key, _ in await self._foreign()]

    async def abandoned(self) -> list[str]:
        """Those of `foreign` whose process has ended, as far as the server knows; SQLite has no server."""
        if self.presence is None:
            return []
        foreign = await self._foreign()
        async with wrapped():
            ended = set(await self.presence.ended({holder for _, holder in foreign}))
        return [key for key, holder in foreign if holder in ended]

    async def _foreign(self) -> list[tuple[str, str]]:
        holder = t.blocks.c.holder
        query = select(t.blocks.c.key, holder).where(holder.is_not(None), holder != self.holder)
        async with self._reading() as c:
            return [(row.key, row.holder) for row in await c.execute(query)]

    async def turns(self, limit: int = 50) -> Sequence[Row[*tuple[Any, ...]]]:
        """The newest turns with tenant and session names, newest first."""
        query = (
            select(
                t.turns.c.id,
                t.turns.c.created_at,
                t.turns.c.reuse_class,
                t.turns.c.prompt_tokens,
                t.turns.c.exact_tokens,
                t.turns.c.depth,
                t.turns.c.ttft_seconds,
                t.turns.c.predicted_cold_seconds,
                t.turns.c.answer,
                t.turns.c.report,
                t.sessions.c.name.label("session"),
                t.tenants.c.name.label("tenant"),
            )
            .join(t.scopes, t.scopes.c.id == t.turns.c.scope_id)
            .join(t.tenants, t.tenants.c.id == t.scopes.c.tenant_id)
            .outerjoin(t.sessions, t.sessions.c.id == t.turns.c.session_id)
            .order_by(t.turns.c.id.desc())
            .limit(limit)
        )
        async with self._reading() as c:
            return (await c.execute(query)).all()

    async def statistics(self) -> dict[str, Any]:
        """Counts and sums over the whole registry."""
        async with self._reading() as c:
            by_class = {
                row.reuse_class: {
                    "turns": row.turns,
                    "prompt_tokens": row.prompt,
                    "ttft_seconds": row.ttft,
                    "predicted_cold_seconds": row.cold,
                }
                for row in await c.execute(
                    select(
                        t.turns.c.reuse_class,
                        func.count().label("turns"),
                        func.sum(t.turns.c.prompt_tokens).label("prompt"),
                        func.sum(t.turns.c.ttft_seconds).label("ttft"),
                        func.sum(t.turns.c.predicted_cold_seconds).label("cold"),
                    ).group_by(t.turns.c.reuse_class)
                )
            }
            reused = {
                row.kind: row.tokens
                for row in await c.execute(
                    select(t.events.c.kind, func.sum(t.events.c.tokens).label("tokens")).group_by(t.events.c.kind)
                )
            }
            count = (await c.execute(select(func.count(), func.coalesce(func.sum(t.blocks.c.size_bytes), 0)))).one()
            sessions = (await c.execute(select(func.count()).select_from(t.sessions))).scalar_one()
            tenants = (await c.execute(select(func.count()).select_from(t.tenants))).scalar_one()
        return {
            "tenants": tenants,
            "sessions": sessions,
            "turns": by_class,
            "tokens_by_event": reused,
            "blocks": count[0],
            "block_bytes": int(count[1]),
        }
