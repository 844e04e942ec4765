"""The registry: opening it, scopes, sessions, and what there is. Its queries stand in files of their own."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, TypeVar
from uuid import uuid4

import blake3
from sqlalchemy import Connection, Engine, Row, and_, func, insert, literal, select, update
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from semshare_agents.concurrency import threads
from semshare_agents.errors import RegistryUnavailableError
from semshare_agents.registry import schema
from semshare_agents.registry import tables as t
from semshare_agents.registry.browsing import BrowseQueries
from semshare_agents.registry.checking import CheckQueries
from semshare_agents.registry.engine import make_engine, make_look_up_engine, wrapped
from semshare_agents.registry.finding import FindQueries
from semshare_agents.registry.forgetting import ForgetQueries
from semshare_agents.registry.guarding import GuardQueries, session_id
from semshare_agents.registry.history import HistoryQueries
from semshare_agents.registry.keeping import KeepQueries
from semshare_agents.registry.pinning import PinQueries
from semshare_agents.registry.presence import Presence
from semshare_agents.registry.writing import WriteQueries
from semshare_agents.security.encryption import Sealer
from semshare_agents.security.name_key import KEY_BYTES
from semshare_agents.store.base import BlockInfo
from semshare_agents.values import Scope

log = logging.getLogger(__name__)

T = TypeVar("T")
EVENT_ROWS = 200_000
OTHER_KEY = (
    "its names are of another key (names.key in the home, or the setting names_key), of another pool or of an earlier "
    "version; with the key of then they are found again"
)


class Registry(
    FindQueries,
    ForgetQueries,
    WriteQueries,
    KeepQueries,
    PinQueries,
    HistoryQueries,
    GuardQueries,
    CheckQueries,
    BrowseQueries,
):
    """Async access to one registry database.

    Use `Registry.open`. Blocks held in another process's RAM are invisible here; `holder` names this process.
    """

    def __init__(self, engine: AsyncEngine, threaded: Engine | None):
        self._engine, self._threaded = engine, threaded
        self._read = engine.execution_options(isolation_level="AUTOCOMMIT", readonly=True)
        self.dialect = engine.dialect.name
        self.holder = uuid4().hex
        self.event_rows = EVENT_ROWS
        self.presence = Presence(self._read, self.holder) if self.dialect == "postgresql" else None
        self.names_key = bytes(KEY_BYTES)
        self.pools = {}
        self.sealer = Sealer()

    @classmethod
    async def open(
        cls,
        url: str,
        *,
        timeout_seconds: float = 10.0,
        upgrade: bool = False,
        event_rows: int = EVENT_ROWS,
        names_key: bytes = bytes(KEY_BYTES),
        pools: Mapping[str, Sequence[str]] | None = None,
        sealer: Sealer | None = None,
    ) -> Registry:
        """Open a database, creating its tables when it is new.

        Args:
            url: An async SQLAlchemy URL.
            timeout_seconds: How long a server may take to answer.
            upgrade: Whether a database of an older schema version may be upgraded: nothing else uses it.
            event_rows: Most rows of the log of events, and of the guard's samples; the oldest go first.
            names_key: Keys all names, 32 bytes; with another one nothing is found.
            pools: Tenants that reuse one another's KV, by the pool's name; a tenant is in one at most.
            sealer: Encrypts texts and token ids; None for one without keys.

        Raises:
            ConfigurationError: the URL is malformed.
            RegistryUnavailableError: the database cannot be reached.
            SchemaVersionError: it belongs to another schema version.
        """
        engine = await asyncio.to_thread(make_engine, url, timeout_seconds)
        registry = cls(engine, await asyncio.to_thread(make_look_up_engine, engine.url))
        registry.event_rows, registry.names_key, registry.pools = event_rows, names_key, pools or {}
        registry.sealer = sealer or Sealer()
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
        if self._threaded is not None:
            await asyncio.to_thread(self._threaded.dispose)
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

    async def _looking(self, look: Callable[[Connection], T]) -> T:
        async with wrapped():
            if self._threaded is not None:
                return await threads.work(_looked, self._threaded, look)
            async with self._read.connect() as connection:
                return await connection.run_sync(look)

    @asynccontextmanager
    async def _writing(self) -> AsyncIterator[AsyncConnection]:
        async with wrapped(), self._engine.begin() as connection:
            yield connection

    # --- scopes and sessions

    async def scope(self, tenant: str, fingerprint: str, model: str = "", *, make: bool = True) -> Scope:
        """The scope of a tenant and a model, made when it is new.

        Where its names were made with another key, they are no longer found; a warning says so once.

        Args:
            tenant: Whose.
            fingerprint: Of the model and how its KV is packed.
            model: What the model was loaded from.
            make: Whether a new one is written down; else its id is 0, and only what others share with it is found.
        """
        pool, seed, check = self._key_of(tenant, fingerprint)
        found, forgets = await self._scope_rows(tenant, fingerprint, self.pools.get(pool or "", (tenant,)))
        mine = found.get(tenant)
        if mine is None and not make:
            reads = tuple(sorted({0, *(row.id for row in found.values())}))
            return Scope(0, tenant, fingerprint, seed, reads, forgets)
        if mine is None or mine.key_check != check:
            found[tenant] = mine = await self._make_scope(tenant, fingerprint, model, check)
            if mine.key_check != check:
                log.warning("nothing stored so far is found for tenant %s: %s", tenant, OTHER_KEY)
        reads = tuple(sorted(row.id for row in found.values()))
        return Scope(mine.id, tenant, fingerprint, seed, reads, forgets)

    def _key_of(self, tenant: str, fingerprint: str) -> tuple[str | None, bytes, str]:
        """A tenant's pool, the seed of its names, and the digest by which a row says that they are of this seed."""
        pool = next((name for name, members in self.pools.items() if tenant in members), None)
        kind, name = ("tenant", tenant) if pool is None else ("pool", pool)
        seed = blake3.blake3(f"{kind}|{len(name)}|{name}|{fingerprint}".encode(), key=self.names_key).digest()
        return pool, seed, blake3.blake3(b"check" + seed).hexdigest(length=16)

    async def tenants_of_other_keys(self) -> list[str]:
        """Tenants whose names were last made with another key or in another pool than now."""
        query = select(t.tenants.c.name, t.scopes.c.fingerprint, t.scopes.c.key_check).join(
            t.scopes, t.scopes.c.tenant_id == t.tenants.c.id
        )
        async with self._reading() as c:
            rows = (await c.execute(query)).all()
        return sorted({r.name for r in rows if r.key_check not in (None, self._key_of(r.name, r.fingerprint)[2])})

    async def _scope_rows(
        self, tenant: str, fingerprint: str, members: Sequence[str]
    ) -> tuple[dict[str, Row[*tuple[Any, ...]]], int]:
        """Scopes by tenant, of all who share with this one; and the newest act of forgetting."""
        newest = select(func.coalesce(func.max(t.forgets.c.id), 0))
        query = (
            select(t.scopes.c.id, t.scopes.c.key_check, t.tenants.c.name)
            .join(t.tenants, t.tenants.c.id == t.scopes.c.tenant_id)
            .where(t.scopes.c.fingerprint == fingerprint, t.tenants.c.name.in_(members))
        )

        def look(c: Connection) -> tuple[dict[str, Row[*tuple[Any, ...]]], int]:
            # What is forgotten after this reading is newer than what it says.
            forgets = int(c.execute(newest).scalar_one())
            return {row.name: row for row in c.execute(query)}, forgets

        return await self._looking(look)

    async def _make_scope(self, tenant: str, fingerprint: str, model: str, check: str) -> Row[*tuple[Any, ...]]:
        """Make a scope, or note that its names are of another key from now on; its row as it was before that."""
        async with self._writing() as c:
            tenant_id = await self._tenant(c, tenant)
            columns = (t.scopes.c.id, t.scopes.c.key_check, literal(tenant).label("name"))
            where = and_(t.scopes.c.tenant_id == tenant_id, t.scopes.c.fingerprint == fingerprint)
            row = (await c.execute(select(*columns).where(where))).first()
            if row is not None:
                await c.execute(update(t.scopes).where(where).values(key_check=check))
                return row
            values = {"tenant_id": tenant_id, "fingerprint": fingerprint, "model": model, "key_check": check}
            return (await c.execute(insert(t.scopes).values(**values).returning(*columns))).one()

    async def history(self, tenant: str, session: str) -> list[dict[str, Any]]:
        """The messages of a session so far: its newest turn's prompt and answer; empty for a new session.

        Raises:
            SealedError: they are encrypted with a key that is not given.
        """
        mine = session_id(tenant, session).scalar_subquery()
        query = (
            select(t.turns.c.id, t.turns.c.messages, t.turns.c.answer)
            .where(t.turns.c.session_id == mine)
            .order_by(t.turns.c.id.desc())
            .limit(1)
        )
        async with self._reading() as c:
            row = (await c.execute(query)).first()
        if row is None:
            return []
        turn = self.sealer.opened(row._mapping)
        return [*json.loads(turn["messages"]), {"role": "assistant", "content": turn["answer"]}]

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

    async def turns(self, limit: int = 50) -> list[SimpleNamespace]:
        """The newest turns with tenant and session names, newest first.

        Raises:
            SealedError: they are encrypted with a key that is not given.
        """
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
            return [SimpleNamespace(**self.sealer.opened(row._mapping)) for row in await c.execute(query)]

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


def _looked(engine: Engine, look: Callable[[Connection], T]) -> T:
    with engine.connect() as connection:
        return look(connection)
