"""Forgetting: a turn, a session or a tenant leaves no row behind, and no row that was made of it.

A turn's text lives on in turns that go on from it, as their history: those go too. Its KV lives on in what other turns
took from it approximately: those turns stay and lose these blocks. Blocks that staying turns share are theirs as well.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

from sqlalchemy import ColumnElement, and_, delete, exists, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from semshare_agents.errors import NotStoredError
from semshare_agents.registry import tables as t
from semshare_agents.registry.database import AnyRow, Part
from semshare_agents.registry.erasure import note
from semshare_agents.registry.naming import missing


@dataclass(frozen=True)
class Forgotten:
    """What an act of forgetting removes from the registry, or would.

    Attributes:
        turn_ids: Turns that are gone, ascending.
        keys: Blocks whose KV nothing names any more.
        size_bytes: KV of these blocks.
        along: Of the turns, how many were not named but go on from one that was, by their session; empty for none.
        shared_blocks: Blocks of these turns that turns that stay have too, and keep.
        shared_bytes: KV of these.
        lessened: Turns that stay and lose KV that they took approximately, ascending.
    """

    turn_ids: tuple[int, ...]
    keys: tuple[str, ...]
    size_bytes: int = 0
    along: Mapping[str, int] = field(default_factory=dict)
    shared_blocks: int = 0
    shared_bytes: int = 0
    lessened: tuple[int, ...] = ()


@dataclass(frozen=True)
class _Fate:
    """What becomes of the blocks of turns that go.

    Attributes:
        dropped: Those that no staying turn has of its own, by id.
        kept: The others, by id.
        heirs: The newest staying turn of each of the latter.
        lessened: Staying turns that lose blocks.
    """

    dropped: dict[int, AnyRow]
    kept: dict[int, AnyRow]
    heirs: dict[int, int]
    lessened: set[int]


class Forgetting(Part):
    """The part of the registry that forgets."""

    async def forget(
        self, tenant: str, *, session: str | None = None, turn_id: int | None = None, dry_run: bool = False
    ) -> Forgotten:
        """Remove a tenant, or one of its sessions or turns, and what was made of their text, in one transaction.

        The caller then deletes the KV of the keys and calls `erase`; who is interrupted before that finds the rest in
        `unerased`.

        Args:
            tenant: Whose.
            session: This session alone.
            turn_id: This turn alone.
            dry_run: Only say what would go.

        Raises:
            NotStoredError: there is no such tenant, session or turn; turns under way there are not remembered.
            SealedError: texts that have to be compared are encrypted with a key that is not given.
        """
        everything = session is None and turn_id is None
        async with self.database.reading() if dry_run else self.database.writing() as c:
            problem = await missing(c, tenant, session, turn_id)
            if problem and not dry_run and turn_id is None:
                await note(c, self.database.names, tenant, [session], (), erased=True)
            if not problem:
                rows = await self._turns_near(c, tenant)
                chosen, gone = _chosen(rows, tenant, session, turn_id)
                fate = await self._fate_of_blocks(c, rows, gone)
                if not dry_run:
                    await self._drop_blocks(c, fate, gone)
                    await self._drop_turns(c, sorted(gone))
                    await self._scrub_reports(c, rows, gone)
                    await self._drop_names(c, tenant, session, everything)
                    touched = {row.session or "" for row in rows if row.id in gone} | ({session} if session else set())
                    keys = [row.key for row in fate.dropped.values()]
                    await note(c, self.database.names, tenant, [None] if everything else sorted(touched), keys)
        if problem:
            raise NotStoredError(problem)
        return _told(rows, chosen, gone, fate)

    async def _turns_near(self, c: AsyncConnection, tenant: str) -> list[SimpleNamespace]:
        """Turns of the tenant and of all that may have reused them, ascending."""
        members = self.database.names.members(tenant)
        columns = (t.turns.c.id, t.turns.c.messages, t.turns.c.answer, t.turns.c.report, t.turns.c.exact_tokens)
        query = (
            select(*columns, t.sessions.c.name.label("session"), t.tenants.c.name.label("tenant"))
            .join(t.scopes, t.scopes.c.id == t.turns.c.scope_id)
            .join(t.tenants, t.tenants.c.id == t.scopes.c.tenant_id)
            .outerjoin(t.sessions, t.sessions.c.id == t.turns.c.session_id)
            .where(t.tenants.c.name.in_(members))
            .order_by(t.turns.c.id)
        )
        return [SimpleNamespace(**self.database.cipher.decrypted(row._mapping)) for row in await c.execute(query)]

    async def _fate_of_blocks(self, c: AsyncConnection, rows: Sequence[SimpleNamespace], gone: set[int]) -> _Fate:
        """Which blocks of turns that go are dropped, and which belong to turns that stay."""
        links, blocks = t.turn_blocks.c, t.blocks.c
        mine = select(links.block_id).where(self._among(links.turn_id, gone))
        query = select(blocks.id, blocks.key, blocks.length, blocks.size_bytes).where(
            or_(blocks.id.in_(mine), self._among(blocks.turn_id, gone))
        )
        found = {row.id: row for row in await c.execute(query)}
        staying: dict[int, list[AnyRow]] = {}
        query = select(links.block_id, links.turn_id, links.length).where(self._among(links.block_id, found))
        for link in await c.execute(query):
            if link.turn_id not in gone:
                staying.setdefault(link.block_id, []).append(link)
        # A block that is longer than what staying turns have of it holds more than their text.
        kept = {i for i, row in found.items() if max((k.length for k in staying.get(i, ())), default=0) >= row.length}
        dropped = {i: row for i, row in found.items() if i not in kept}
        approximate = await self._approximate_blocks(c, _reusing(rows, gone))
        dropped |= {row.id: row for row in approximate}
        stays = {i: row for i, row in found.items() if i not in dropped}
        heirs = {i: max(link.turn_id for link in staying[i]) for i in stays}
        lessened = {row.turn_id for row in approximate}
        return _Fate(dropped, stays, heirs, lessened)

    async def _approximate_blocks(self, c: AsyncConnection, exact_tokens: Mapping[int, int]) -> list[AnyRow]:
        """Blocks that reach past their turns' exact frontiers, with those turns."""
        links, blocks = t.turn_blocks.c, t.blocks.c
        query = (
            select(links.turn_id, links.start, links.length, blocks.id, blocks.key, blocks.size_bytes)
            .join(t.blocks, blocks.id == links.block_id)
            .where(self._among(links.turn_id, exact_tokens))
        )
        rows = (await c.execute(query)).all()
        return [row for row in rows if row.start + row.length > exact_tokens[row.turn_id]]

    async def _drop_blocks(self, c: AsyncConnection, fate: _Fate, gone: set[int]) -> None:
        links, blocks = t.turn_blocks.c, t.blocks.c
        for i, heir in fate.heirs.items():
            await c.execute(update(t.blocks).where(blocks.id == i).values(turn_id=heir))
        await c.execute(delete(t.turn_blocks).where(self._among(links.block_id, fate.dropped)))
        await c.execute(delete(t.turn_blocks).where(self._among(links.turn_id, gone)))
        await c.execute(delete(t.blocks).where(self._among(blocks.id, fate.dropped)))

    async def _drop_turns(self, c: AsyncConnection, gone: Sequence[int]) -> None:
        of_turns = or_(self._among(t.events.c.turn_id, gone), self._among(t.events.c.donor_turn_id, gone))
        await c.execute(delete(t.events).where(of_turns))
        for table in (t.bands, t.guard_samples, t.pins):
            await c.execute(delete(table).where(self._among(table.c.turn_id, gone)))
        await c.execute(delete(t.turns).where(self._among(t.turns.c.id, gone)))

    async def _scrub_reports(self, c: AsyncConnection, rows: Sequence[SimpleNamespace], gone: set[int]) -> None:
        """Take forgotten donors out of the reports of turns that stay."""
        for row in rows:
            report = json.loads(row.report)
            if row.id in gone or not _donors(report) & gone:
                continue
            report["donors"] = {k: v for k, v in report["donors"].items() if int(k) not in gone}
            spans = report.get("spans", [])
            report["spans"] = [span[:2] if len(span) > 2 and int(span[2]) in gone else span for span in spans]
            sealed = self.database.cipher.encrypted({"report": json.dumps(report, separators=(",", ":"))}, row.id)
            await c.execute(update(t.turns).where(t.turns.c.id == row.id).values(**sealed))

    async def _drop_names(self, c: AsyncConnection, tenant: str, session: str | None, everything: bool) -> None:
        """Drop sessions without turns, and for a whole tenant all that names it."""
        of_tenant = select(t.tenants.c.id).where(t.tenants.c.name == tenant).scalar_subquery()
        scopes = select(t.scopes.c.id).where(t.scopes.c.tenant_id == of_tenant)
        empty = and_(
            t.sessions.c.tenant_id == of_tenant,
            ~exists().where(t.turns.c.session_id == t.sessions.c.id),
        )
        sessions = select(t.sessions.c.id).where(empty)
        for table in (t.guard_samples, t.guard_limits):
            theirs = table.c.scope_id.in_(scopes) if everything else table.c.session_id.in_(sessions)
            await c.execute(delete(table).where(theirs))
        await c.execute(delete(t.pins).where(t.pins.c.session_id.in_(sessions)))
        await c.execute(delete(t.sessions).where(empty))
        if everything:
            await c.execute(delete(t.scopes).where(t.scopes.c.tenant_id == of_tenant))
            await c.execute(delete(t.tenants).where(t.tenants.c.name == tenant))

    def _among(self, column: ColumnElement[Any], ids: Iterable[int]) -> ColumnElement[bool]:
        return self.database.any_of(column, sorted(ids))


def _chosen(
    rows: Sequence[SimpleNamespace], tenant: str, session: str | None, turn_id: int | None
) -> tuple[set[int], set[int]]:
    """Turns that are named, and all that go: those and the ones that go on from them."""
    own = [row for row in rows if row.tenant == tenant]
    everything = session is None and turn_id is None
    named = {row.id for row in own if everything or (row.id == turn_id if session is None else row.session == session)}
    return named, _with_continuations(own, named)


def _told(rows: Sequence[SimpleNamespace], chosen: set[int], gone: set[int], fate: _Fate) -> Forgotten:
    along = Counter(row.session or "" for row in rows if row.id in gone - chosen)
    return Forgotten(
        turn_ids=tuple(sorted(gone)),
        keys=tuple(sorted(row.key for row in fate.dropped.values())),
        size_bytes=sum(int(row.size_bytes) for row in fate.dropped.values()),
        along=dict(along),
        shared_blocks=len(fate.kept),
        shared_bytes=sum(int(row.size_bytes) for row in fate.kept.values()),
        lessened=tuple(sorted(fate.lessened)),
    )


def _with_continuations(rows: Sequence[SimpleNamespace], chosen: set[int]) -> set[int]:
    """Chosen turns, and those whose messages hold what one of them was asked last and answered."""
    said: set[tuple[str, str]] = set()
    gone: set[int] = set()
    for row in rows:
        messages = [_said(m["role"], m.get("content")) for m in json.loads(row.messages)]
        if row.id in chosen or said.intersection(pairwise(messages)):
            gone.add(row.id)
            said.add((messages[-1], _said("assistant", row.answer)))
    return gone


def _said(role: str, content: Any) -> str:
    return json.dumps([role, content]).replace("\\u0000", "\\ufffd")


def _donors(report: Mapping[str, Any]) -> set[int]:
    return {int(turn_id) for turn_id in report.get("donors", {})}


def _reusing(rows: Sequence[SimpleNamespace], gone: set[int]) -> dict[int, int]:
    """Staying turns that took KV from turns that go, directly or not, with the length of their exact prefix."""
    touched, staying = set(gone), {}
    for row in rows:
        if row.id not in gone and _donors(json.loads(row.report)) & touched:
            touched.add(row.id)
            staying[row.id] = int(row.exact_tokens)
    return staying
