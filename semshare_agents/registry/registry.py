"""The registry's operations. Short transactions; every look-up runs on an index."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import blake3
import numpy as np
from sqlalchemy import Label, Row, and_, delete, func, insert, or_, select, update
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from semshare_agents.errors import RegistryUnavailableError
from semshare_agents.match.spans import Hit
from semshare_agents.observe.reuse_map import packed
from semshare_agents.registry import schema
from semshare_agents.registry import tables as t
from semshare_agents.registry.browsing import BrowseQueries
from semshare_agents.registry.checking import CheckQueries
from semshare_agents.registry.engine import any_of, listed, make_engine, oldest, wrapped
from semshare_agents.registry.guarding import GuardQueries, session_id
from semshare_agents.registry.presence import Presence
from semshare_agents.store.base import BlockInfo
from semshare_agents.values import BlockRef, Donor, Ints, Report, Scope

HITS_PER_CONTENT = 4
BRANCH_CANDIDATES = 16
TURNS_PER_BAND = 512
EVENT_ROWS = 200_000


@dataclass(frozen=True)
class NewBlock:
    """A block to be registered.

    Attributes:
        start: First token in its turn.
        length: Tokens.
        chain: Chain name, hexadecimal.
        branch: Digest of the parent chain and the first tokens, hexadecimal; None for very short blocks.
        content: Content name; None for blocks shorter than the block size.
        key: Its KV in the store.
        size_bytes: Size of its KV.
        known: Whether the key belongs to a registered block that this turn shares.
        durable: Whether its KV is on disk already; otherwise only this process can use it.
    """

    start: int
    length: int
    chain: str
    branch: str | None
    content: int | None
    key: str
    size_bytes: int
    known: bool
    durable: bool = False


@dataclass(frozen=True)
class NewTurn:
    """A turn to be registered.

    Attributes:
        tokens: Tokens whose KV is stored, shape `(tokens,)`.
        blocks: Its blocks, ascending.
        bands: Signature values.
        messages: The prompt's messages.
        answer: The answer's text.
        report: What was reused.
        exact_tokens: Length of the prefix of `tokens` whose KV equals a cold run's.
        session: Session name; None for stateless calls.
        depth: Approximate turns between this one and a cold run.
        superseded: Turn whose tokens are a prefix of this one's; its signature is no longer needed.
    """

    tokens: Ints
    blocks: tuple[NewBlock, ...]
    bands: tuple[int, ...]
    messages: Sequence[Mapping[str, Any]]
    answer: str
    report: Report
    prompt_tokens: int
    exact_tokens: int
    session: str | None = None
    depth: int = 0
    superseded: int | None = None


class Registry(GuardQueries, CheckQueries, BrowseQueries):
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

    async def _tenant(self, c: AsyncConnection, name: str) -> int:
        row = (await c.execute(select(t.tenants.c.id).where(t.tenants.c.name == name))).scalar()
        if row is None:
            row = (await c.execute(insert(t.tenants).values(name=name).returning(t.tenants.c.id))).scalar_one()
        return int(row)

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

    # --- look-ups

    def _visible(self) -> Any:
        return or_(t.blocks.c.holder.is_(None), t.blocks.c.holder == self.holder)

    async def find_chain(self, scope: Scope, names: Sequence[str]) -> dict[str, tuple[int, str]]:
        """Stored blocks by chain name: a turn that has the block, and the block's key."""
        query = (
            select(t.blocks.c.chain, t.blocks.c.turn_id, t.blocks.c.key)
            .where(t.blocks.c.scope_id == scope.id, any_of(t.blocks.c.chain, names, self.dialect), self._visible())
            .order_by(t.blocks.c.id)
        )
        async with self._reading() as c:
            return {row.chain: (row.turn_id, row.key) for row in await c.execute(query)}

    async def find_branch(self, scope: Scope, branch: str) -> list[int]:
        """Turns with a block that follows the same chain and begins with the same tokens, newest first."""
        query = (
            select(_newest_turn())
            .where(t.blocks.c.scope_id == scope.id, t.blocks.c.branch == branch, self._visible())
            .order_by(t.blocks.c.id.desc())
            .limit(BRANCH_CANDIDATES)
        )
        async with self._reading() as c:
            return [i for i in dict.fromkeys((await c.execute(query)).scalars()) if i is not None]

    async def find_contents(self, scope: Scope, windows: Mapping[int, Sequence[int]]) -> list[Hit]:
        """Where a prompt's windows meet stored blocks.

        Args:
            scope: Tenant and model.
            windows: Prompt positions by content name.
        """
        if not windows:
            return []
        wanted = any_of(t.blocks.c.content, list(windows), self.dialect)
        rank = func.row_number().over(partition_by=t.blocks.c.content, order_by=t.blocks.c.id.desc()).label("rank")
        ranked = (
            select(t.blocks.c.content, _newest_turn(), t.blocks.c.start, rank)
            .where(t.blocks.c.scope_id == scope.id, wanted, self._visible())
            .subquery()
        )
        query = select(ranked.c.content, ranked.c.turn_id, ranked.c.start).where(ranked.c.rank <= HITS_PER_CONTENT)
        async with self._reading() as c:
            rows = (await c.execute(query)).all()
        # A block that lost its links to all turns has no donor.
        linked = [row for row in rows if row.turn_id is not None]
        return [Hit(at, row.turn_id, row.start) for row in linked for at in windows[row.content]]

    async def find_similar(self, scope: Scope, values: Sequence[int], limit: int) -> list[tuple[int, int]]:
        """Turns that share signature bands, with how many they share, best first.

        Of a band that very many turns have, which tells little, the newest `TURNS_PER_BAND` count: a look-up's time
        depends on the prompt, not on how many turns are stored.
        """
        wanted = listed(values, t.bands.c.value, self.dialect)
        common, mine = t.bands.alias(), t.bands.c.scope_id == scope.id
        eldest = (
            select(common.c.turn_id)
            .where(common.c.scope_id == scope.id, common.c.value == wanted.c.value)
            .order_by(common.c.turn_id.desc())
            .offset(TURNS_PER_BAND - 1)
            .limit(1)
        )
        counts = t.bands.c.turn_id >= func.coalesce(eldest.scalar_subquery(), 0)
        shared = func.count().label("shared")
        query = (
            select(t.bands.c.turn_id, shared)
            .select_from(wanted.join(t.bands, and_(mine, t.bands.c.value == wanted.c.value, counts)))
            .group_by(t.bands.c.turn_id)
            .order_by(shared.desc(), t.bands.c.turn_id.desc())
            .limit(limit)
        )
        async with self._reading() as c:
            return [(row.turn_id, row.shared) for row in await c.execute(query)]

    async def tokens(self, scope: Scope, turn_ids: Sequence[int]) -> dict[int, Ints]:
        """The tokens of turns that have some, in the order asked for, each of shape `(tokens,)`."""
        wanted = any_of(t.turns.c.id, list(turn_ids), self.dialect)
        query = select(t.turns.c.id, t.turns.c.tokens).where(t.turns.c.scope_id == scope.id, wanted)
        async with self._reading() as c:
            rows = {row.id: _tokens(row.tokens) for row in await c.execute(query)}
        return {i: rows[i] for i in turn_ids if i in rows and len(rows[i])}

    async def donors(self, scope: Scope, turn_ids: Sequence[int]) -> list[Donor]:
        """Turns as donors, in the order asked for; turns without any visible block are left out."""
        if not turn_ids:
            return []
        wanted = any_of(t.turns.c.id, list(turn_ids), self.dialect)
        turns = select(t.turns.c.id, t.turns.c.tokens, t.turns.c.exact_tokens, t.turns.c.depth).where(
            t.turns.c.scope_id == scope.id, wanted
        )
        parts = (
            select(
                t.turn_blocks.c.turn_id,
                t.turn_blocks.c.start,
                t.turn_blocks.c.length,
                t.blocks.c.key,
                t.blocks.c.length.label("stored"),
            )
            .join(t.blocks, t.blocks.c.id == t.turn_blocks.c.block_id)
            .where(any_of(t.turn_blocks.c.turn_id, list(turn_ids), self.dialect), self._visible())
            .order_by(t.turn_blocks.c.turn_id, t.turn_blocks.c.start)
        )
        async with self._reading() as c:
            rows = {row.id: row for row in await c.execute(turns)}
            refs: dict[int, list[BlockRef]] = {}
            for part in await c.execute(parts):
                refs.setdefault(part.turn_id, []).append(BlockRef(part.key, part.start, part.length, part.stored))
        return [
            Donor(
                turn_id=i,
                tokens=_tokens(rows[i].tokens),
                blocks=tuple(refs[i]),
                exact_tokens=rows[i].exact_tokens,
                depth=rows[i].depth,
            )
            for i in turn_ids
            if i in rows and i in refs
        ]

    # --- writing

    async def add_turn(self, scope: Scope, turn: NewTurn) -> int:
        """Register a turn, its blocks and what it reused, in one transaction; new blocks are held by this process.

        Returns:
            The turn's id.
        """
        async with self._writing() as c:
            session = None if turn.session is None else await self._session(c, scope.tenant, turn.session)
            turn_id = await self._insert_turn(c, scope, turn, session)
            await self._insert_blocks(c, scope, turn.blocks, turn_id)
            if turn.superseded is not None:
                await c.execute(delete(t.bands).where(t.bands.c.turn_id == turn.superseded))
            if turn.bands:
                rows = [{"scope_id": scope.id, "value": v, "turn_id": turn_id} for v in set(turn.bands)]
                await c.execute(insert(t.bands), rows)
            await c.execute(insert(t.events), _reuse_events(turn_id, turn.report))
            await c.execute(oldest(t.events, self.event_rows))
        return turn_id

    async def _session(self, c: AsyncConnection, tenant: str, name: str) -> int:
        tenant_id, now = await self._tenant(c, tenant), time.time()
        where = and_(t.sessions.c.tenant_id == tenant_id, t.sessions.c.name == name)
        row = (await c.execute(update(t.sessions).where(where).values(used_at=now).returning(t.sessions.c.id))).scalar()
        if row is None:
            values = {"tenant_id": tenant_id, "name": name, "created_at": now, "used_at": now}
            row = (await c.execute(insert(t.sessions).values(**values).returning(t.sessions.c.id))).scalar_one()
        return int(row)

    async def _insert_turn(self, c: AsyncConnection, scope: Scope, turn: NewTurn, session_id: int | None) -> int:
        report = turn.report
        values = {
            "scope_id": scope.id,
            "session_id": session_id,
            "created_at": time.time(),
            "reuse_class": report.reuse_class,
            "prompt_tokens": turn.prompt_tokens,
            "stored_tokens": len(turn.tokens),
            "exact_tokens": turn.exact_tokens,
            "depth": turn.depth,
            "ttft_seconds": report.ttft_seconds,
            "predicted_cold_seconds": report.predicted_cold_seconds,
            "tokens": turn.tokens.astype("<i4").tobytes(),
            "messages": json.dumps(list(turn.messages), ensure_ascii=False),
            # PostgreSQL has no such character.
            "answer": turn.answer.replace("\x00", "\ufffd"),
            "report": json.dumps({**report_dict(report), "spans": packed(report.spans)}, separators=(",", ":")),
        }
        row = (await c.execute(insert(t.turns).values(**values).returning(t.turns.c.id))).scalar_one()
        return int(row)

    async def _insert_blocks(self, c: AsyncConnection, scope: Scope, blocks: Sequence[NewBlock], turn_id: int) -> None:
        fresh = [
            {
                "scope_id": scope.id,
                "key": b.key,
                "turn_id": turn_id,
                "start": b.start,
                "length": b.length,
                "chain": b.chain,
                "branch": b.branch,
                "content": b.content,
                "size_bytes": b.size_bytes,
                "holder": None if b.durable else self.holder,
            }
            for b in blocks
            if not b.known
        ]
        if fresh:
            await c.execute(insert(t.blocks), fresh)
        keys = [b.key for b in blocks]
        if not keys:
            return
        query = select(t.blocks.c.key, t.blocks.c.id).where(any_of(t.blocks.c.key, keys, self.dialect))
        ids = {row.key: row.id for row in await c.execute(query)}
        # A shared block may have been evicted between load and store: the turn then has a gap there.
        links = [
            {"turn_id": turn_id, "start": b.start, "length": b.length, "block_id": ids[b.key]}
            for b in blocks
            if b.key in ids
        ]
        if links:
            await c.execute(insert(t.turn_blocks), links)

    async def made_durable(self, keys: Sequence[str]) -> list[str]:
        """Blocks of this process are on disk now: every process may use them.

        Returns:
            Those that were dropped meanwhile: nothing names their files.
        """
        if not keys:
            return []
        mine = any_of(t.blocks.c.key, keys, self.dialect)
        async with self._writing() as c:
            changed = await c.execute(update(t.blocks).where(mine).values(holder=None).returning(t.blocks.c.key))
            known = set(changed.scalars())
        return [key for key in keys if key not in known]

    async def drop_blocks(self, keys: Sequence[str], kind: str, detail: str) -> int:
        """Forget blocks whose KV is gone; the turns keep their text.

        Args:
            keys: The blocks.
            kind: `evict` or `miss`.
            detail: Why.

        Returns:
            How many were known.
        """
        if not keys:
            return 0
        async with self._writing() as c:
            rows = (
                await c.execute(
                    select(t.blocks.c.id, t.blocks.c.length).where(any_of(t.blocks.c.key, keys, self.dialect))
                )
            ).all()
            if not rows:
                return 0
            ids = [row.id for row in rows]
            await c.execute(delete(t.turn_blocks).where(any_of(t.turn_blocks.c.block_id, ids, self.dialect)))
            await c.execute(delete(t.blocks).where(any_of(t.blocks.c.id, ids, self.dialect)))
            await c.execute(
                insert(t.events).values(
                    at=time.time(), kind=kind, tokens=sum(row.length for row in rows), detail=detail
                )
            )
            await c.execute(oldest(t.events, self.event_rows))
        return len(rows)

    async def supersede(self, old_key: str, new_key: str) -> bool:
        """Let every turn that uses a short block use a longer one that begins with the same tokens, and drop the short.

        Returns:
            Whether both were known.
        """
        async with self._writing() as c:
            query = select(t.blocks.c.key, t.blocks.c.id).where(t.blocks.c.key.in_([old_key, new_key]))
            ids = {row.key: row.id for row in await c.execute(query)}
            if len(ids) < 2:
                return False
            old, new = ids[old_key], ids[new_key]
            await c.execute(update(t.turn_blocks).where(t.turn_blocks.c.block_id == old).values(block_id=new))
            await c.execute(delete(t.blocks).where(t.blocks.c.id == old))
        return True

    async def repaired(
        self, scope: Scope, turn_id: int, blocks: Sequence[NewBlock], exact_tokens: int, finished: bool
    ) -> list[str]:
        """Let a turn use exact blocks in the place of its approximate ones, and move its exact frontier.

        Args:
            scope: Tenant and model.
            turn_id: The turn.
            blocks: What takes the place of the blocks that start where these do.
            exact_tokens: The turn's exact frontier from now on.
            finished: Whether all its KV is exact now.

        Returns:
            Keys of blocks that no turn uses any more; their rows are gone.
        """
        mine = t.turn_blocks.c.turn_id == turn_id
        there = and_(mine, t.turn_blocks.c.start.in_([b.start for b in blocks]))
        async with self._writing() as c:
            query = select(t.blocks.c.id, t.blocks.c.key).join(t.turn_blocks).where(there)
            old = {row.id: row.key for row in await c.execute(query)}
            await c.execute(delete(t.turn_blocks).where(there))
            await self._insert_blocks(c, scope, blocks, turn_id)
            changes: dict[str, Any] = {"exact_tokens": exact_tokens, **({"depth": 0} if finished else {})}
            await c.execute(update(t.turns).where(t.turns.c.id == turn_id).values(**changes))
            where = any_of(t.turn_blocks.c.block_id, list(old), self.dialect)
            newest = func.max(t.turn_blocks.c.turn_id).label("turn_id")
            query = select(t.turn_blocks.c.block_id, newest).where(where).group_by(t.turn_blocks.c.block_id)
            shared = {row.block_id: row.turn_id for row in await c.execute(query)} if old else {}
            for block_id, other in shared.items():
                await c.execute(update(t.blocks).where(t.blocks.c.id == block_id).values(turn_id=other))
            unused = [block_id for block_id in old if block_id not in shared]
            if unused:
                await c.execute(delete(t.blocks).where(any_of(t.blocks.c.id, unused, self.dialect)))
            count, detail = sum(b.length for b in blocks), f"exact up to token {exact_tokens}"
            event = {"at": time.time(), "turn_id": turn_id, "kind": "repair", "tokens": count, "detail": detail}
            await c.execute(insert(t.events).values(**event))
        return [old[block_id] for block_id in unused]

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


def _newest_turn() -> Label[int]:
    """The newest turn that has a block: of all that share it, it has most of the conversation in one place."""
    newest = select(func.max(t.turn_blocks.c.turn_id)).where(t.turn_blocks.c.block_id == t.blocks.c.id)
    return newest.scalar_subquery().label("turn_id")


def _tokens(stored: bytes) -> Ints:
    # A damaged list is nobody's donor.
    whole = stored if len(stored) % 4 == 0 else b""
    return np.frombuffer(whole, dtype="<i4").astype(np.int64)


def report_dict(report: Report) -> dict[str, Any]:
    """A report as plain JSON values."""
    return {
        "class": report.reuse_class,
        "tokens": dict(report.tokens),
        "rows_share": report.rows_share,
        "donors": {str(k): v for k, v in report.donors.items()},
        "similarity": report.similarity,
        "exact_tokens": report.exact_tokens,
        "stages_seconds": dict(report.stages_seconds),
        "ttft_seconds": report.ttft_seconds,
        "predicted_cold_seconds": report.predicted_cold_seconds,
        "reason": report.reason,
        "drift_kl": report.drift_kl,
        "misses": report.misses,
    }


def _reuse_events(turn_id: int, report: Report) -> list[dict[str, Any]]:
    """One row for each donor and kind, or one that says why the turn ran cold."""
    now = time.time()
    base = {"at": now, "turn_id": turn_id}
    if report.reuse_class == "cold":
        return [{**base, "kind": "cold", "donor_turn_id": None, "tokens": 0, "detail": report.reason}]
    donors: Iterable[tuple[int, int]] = sorted(report.donors.items(), key=lambda item: -item[1])
    return [
        {**base, "kind": report.reuse_class, "donor_turn_id": d, "tokens": n, "detail": report.reason}
        for d, n in donors
    ]
