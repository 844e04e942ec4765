"""Writing: turns and blocks, each change one transaction."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import and_, delete, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from semshare_agents.errors import ForgottenError
from semshare_agents.registry import tables as t
from semshare_agents.registry.database import Part
from semshare_agents.registry.erasure import forgotten_since
from semshare_agents.registry.naming import ensure_session
from semshare_agents.values import Ints, Report, Scope


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
        unfinished: Whether it has no answer yet, and may never have: it is a donor as any, and in no list or history.
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
    unfinished: bool = False


class Writing(Part):
    """The part of the registry that keeps, changes and drops turns and blocks."""

    async def add_turn(self, scope: Scope, turn: NewTurn, turn_id: int | None = None) -> int:
        """Register a turn, its blocks and what it reused, in one transaction; new blocks are held by this process.

        Args:
            scope: Tenant and model.
            turn: The turn.
            turn_id: What it was registered as when it was unfinished; None for a new one.

        Returns:
            The turn's id.

        Raises:
            ForgottenError: its session or tenant was forgotten since the scope was asked for.
        """
        async with self.database.writing() as c:
            if await forgotten_since(c, self.database.names, scope.tenant, turn.session, scope.forgets):
                raise ForgottenError("its session or tenant was forgotten while it was under way")
            session = None if turn.session is None else await ensure_session(c, scope.tenant, turn.session)
            turn_id = await self._insert_turn(c, scope, turn, session, turn_id)
            await c.execute(delete(t.turn_blocks).where(t.turn_blocks.c.turn_id == turn_id))
            await self._insert_blocks(c, scope, turn.blocks, turn_id)
            if turn.superseded is not None:
                await c.execute(delete(t.bands).where(t.bands.c.turn_id == turn.superseded))
            if turn.bands:
                rows = [{"scope_id": scope.id, "value": v, "turn_id": turn_id} for v in set(turn.bands)]
                await c.execute(insert(t.bands), rows)
            if not turn.unfinished:
                await self.database.log(c, t.events, _reuse_events(turn_id, turn.report))
        return turn_id

    async def _insert_turn(
        self, c: AsyncConnection, scope: Scope, turn: NewTurn, session_id: int | None, known: int | None
    ) -> int:
        """Insert a turn, or change the row that it has already; returns its id."""
        report = turn.report
        values: dict[str, Any] = {
            "scope_id": scope.id,
            "session_id": session_id,
            "created_at": time.time(),
            "reuse_class": t.UNFINISHED if turn.unfinished else report.reuse_class,
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
            "report": json.dumps(report.as_stored(), separators=(",", ":")),
        }
        # Each is bound to its row, whose id is not known before: what is sealed is never written open.
        private = {name: values[name] for name in ("tokens", "messages", "answer", "report")}
        if self.database.cipher.active:
            values |= {"tokens": b"", "messages": "", "answer": "", "report": ""}
        turn_id = None
        if known is not None:
            change = update(t.turns).where(t.turns.c.id == known).values(**values).returning(t.turns.c.id)
            turn_id = (await c.execute(change)).scalar()
        if turn_id is None:
            turn_id = (await c.execute(insert(t.turns).values(**values).returning(t.turns.c.id))).scalar_one()
        if self.database.cipher.active:
            sealed = self.database.cipher.encrypted(private, turn_id)
            await c.execute(update(t.turns).where(t.turns.c.id == turn_id).values(**sealed))
        return int(turn_id)

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
                "holder": None if b.durable else self.database.holder,
            }
            for b in blocks
            if not b.known
        ]
        if fresh:
            await c.execute(insert(t.blocks), fresh)
        keys = [b.key for b in blocks]
        if not keys:
            return
        query = select(t.blocks.c.key, t.blocks.c.id).where(self.database.any_of(t.blocks.c.key, keys))
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
        mine = self.database.any_of(t.blocks.c.key, keys)
        async with self.database.writing() as c:
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
        async with self.database.writing() as c:
            rows = (
                await c.execute(
                    select(t.blocks.c.id, t.blocks.c.length).where(self.database.any_of(t.blocks.c.key, keys))
                )
            ).all()
            if not rows:
                return 0
            ids = [row.id for row in rows]
            await c.execute(delete(t.turn_blocks).where(self.database.any_of(t.turn_blocks.c.block_id, ids)))
            await c.execute(delete(t.blocks).where(self.database.any_of(t.blocks.c.id, ids)))
            event = {"at": time.time(), "kind": kind, "tokens": sum(row.length for row in rows), "detail": detail}
            await self.database.log(c, t.events, [event])
        return len(rows)

    async def supersede(self, old_key: str, new_key: str) -> bool:
        """Let every turn that uses a short block use a longer one that begins with the same tokens, and drop the short.

        Returns:
            Whether both were known.
        """
        async with self.database.writing() as c:
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

        Raises:
            ForgottenError: the turn is gone.
        """
        mine = t.turn_blocks.c.turn_id == turn_id
        there = and_(mine, t.turn_blocks.c.start.in_([b.start for b in blocks]))
        async with self.database.writing() as c:
            if (await c.execute(select(t.turns.c.id).where(t.turns.c.id == turn_id))).first() is None:
                raise ForgottenError(f"turn {turn_id} was forgotten")
            query = select(t.blocks.c.id, t.blocks.c.key).join(t.turn_blocks).where(there)
            old = {row.id: row.key for row in await c.execute(query)}
            await c.execute(delete(t.turn_blocks).where(there))
            await self._insert_blocks(c, scope, blocks, turn_id)
            changes: dict[str, Any] = {"exact_tokens": exact_tokens, **({"depth": 0} if finished else {})}
            await c.execute(update(t.turns).where(t.turns.c.id == turn_id).values(**changes))
            where = self.database.any_of(t.turn_blocks.c.block_id, list(old))
            newest = func.max(t.turn_blocks.c.turn_id).label("turn_id")
            query = select(t.turn_blocks.c.block_id, newest).where(where).group_by(t.turn_blocks.c.block_id)
            shared = {row.block_id: row.turn_id for row in await c.execute(query)} if old else {}
            for block_id, other in shared.items():
                await c.execute(update(t.blocks).where(t.blocks.c.id == block_id).values(turn_id=other))
            unused = [block_id for block_id in old if block_id not in shared]
            if unused:
                await c.execute(delete(t.blocks).where(self.database.any_of(t.blocks.c.id, unused)))
            count, detail = sum(b.length for b in blocks), f"exact up to token {exact_tokens}"
            event = {"at": time.time(), "turn_id": turn_id, "kind": "repair", "tokens": count, "detail": detail}
            await self.database.log(c, t.events, [event])
        return [old[block_id] for block_id in unused]


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
