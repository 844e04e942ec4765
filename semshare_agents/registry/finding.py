"""Look-ups: what a prompt's names find. Every one stays in its scope and runs on an index."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from sqlalchemy import ColumnElement, Connection, FromClause, Label, and_, func, select

from semshare_agents.errors import SealedError
from semshare_agents.registry import tables as t
from semshare_agents.registry.database import Part
from semshare_agents.registry.engine import gathered, ids_of, listed
from semshare_agents.security.encryption import Cipher
from semshare_agents.values import BlockRef, Donor, Hit, Ints, Scope

log = logging.getLogger(__name__)

HITS_PER_CONTENT = 4
BRANCH_CANDIDATES = 16
TURNS_PER_BAND = 512
TURNS_READ = 1024
"""Most turns whose tokens are read at once."""


class Finding(Part):
    """The part of the registry that finds donors."""

    async def find_chain(self, scope: Scope, names: Sequence[str]) -> dict[str, tuple[int, str]]:
        """Stored blocks by chain name: a turn that has the block, and the block's key."""
        query = (
            select(t.blocks.c.chain, t.blocks.c.turn_id, t.blocks.c.key)
            .where(_within(t.blocks, scope), self.database.any_of(t.blocks.c.chain, names), self.database.visible())
            .order_by(t.blocks.c.id)
        )
        return await self.database.looking(lambda c: {row.chain: (row.turn_id, row.key) for row in c.execute(query)})

    async def find_branch(self, scope: Scope, branch: str) -> list[int]:
        """Turns with a block that follows the same chain and begins with the same tokens, newest first."""
        query = (
            select(_newest_turn())
            .where(_within(t.blocks, scope), t.blocks.c.branch == branch, self.database.visible())
            .order_by(t.blocks.c.id.desc())
            .limit(BRANCH_CANDIDATES)
        )
        found = await self.database.looking(lambda c: c.execute(query).scalars().all())
        return [i for i in dict.fromkeys(found) if i is not None]

    async def find_contents(self, scope: Scope, windows: Mapping[int, Sequence[int]]) -> list[Hit]:
        """Where a prompt's windows meet stored blocks.

        Args:
            scope: Tenant and model.
            windows: Prompt positions by content name.
        """
        if not windows:
            return []
        wanted = self.database.any_of(t.blocks.c.content, list(windows))
        rank = func.row_number().over(partition_by=t.blocks.c.content, order_by=t.blocks.c.id.desc()).label("rank")
        ranked = (
            select(t.blocks.c.content, _newest_turn(), t.blocks.c.start, rank)
            .where(_within(t.blocks, scope), wanted, self.database.visible())
            .subquery()
        )
        query = select(ranked.c.content, ranked.c.turn_id, ranked.c.start).where(ranked.c.rank <= HITS_PER_CONTENT)
        rows = await self.database.looking(lambda c: c.execute(query).all())
        # A block that lost its links to all turns has no donor.
        linked = [row for row in rows if row.turn_id is not None]
        return [Hit(at, row.turn_id, row.start) for row in linked for at in windows[row.content]]

    async def find_similar(self, scope: Scope, values: Sequence[int], limit: int) -> list[tuple[int, int]]:
        """Turns that share signature bands, with how many they share, best first.

        Of a band that very many turns have, which tells little, the newest `TURNS_PER_BAND` count: a look-up's time
        depends on the prompt, not on how many turns are stored.
        """
        wanted = listed(values, t.bands.c.value, self.database.dialect)
        newest = (
            select(t.bands.c.turn_id)
            .where(_within(t.bands, scope), t.bands.c.value == wanted.c.value)
            .order_by(t.bands.c.turn_id.desc())
            .limit(TURNS_PER_BAND)
            .correlate(wanted)
            .subquery()
        )
        query = select(select(gathered(newest.c.turn_id)).scalar_subquery()).select_from(wanted)
        found = await self.database.looking(lambda c: ids_of(c.execute(query).scalars().all()))
        turns, shared = np.unique(found, return_counts=True)
        best = np.lexsort((turns, shared))[: -limit - 1 : -1]
        return list(zip(turns[best].tolist(), shared[best].tolist(), strict=True))

    async def tokens(self, scope: Scope, turn_ids: Sequence[int]) -> dict[int, Ints]:
        """The tokens of turns that have some, in the order asked for, each of shape `(tokens,)`."""
        wanted = self.database.any_of(t.turns.c.id, list(turn_ids))
        query = select(t.turns.c.id, t.turns.c.tokens).where(_within(t.turns, scope), wanted)
        cipher = self.database.cipher
        rows = await self.database.looking(lambda c: {row.id: opened_tokens(cipher, row) for row in c.execute(query)})
        return {i: rows[i] for i in turn_ids if i in rows and len(rows[i])}

    async def newer_tokens(self, scope: Scope, after: int, most_tokens: int) -> list[tuple[int, Ints]]:
        """A scope's own turns after one, not those of its pool, with their tokens, oldest first.

        Args:
            scope: Tenant and model.
            after: A turn; 0 for all.
            most_tokens: The newest turns count until they have so many tokens; the newest one in any case.
        """
        turns = t.turns.c
        # A scope that was forgotten may have left its id to another tenant's.
        mine = select(t.scopes.c.id).join(t.tenants, t.tenants.c.id == t.scopes.c.tenant_id)
        mine = mine.where(
            t.scopes.c.id == scope.id, t.scopes.c.fingerprint == scope.fingerprint, t.tenants.c.name == scope.tenant
        )
        newer = and_(turns.scope_id == mine.scalar_subquery(), turns.id > after)
        lengths = select(turns.id, turns.stored_tokens).where(newer).order_by(turns.id.desc()).limit(TURNS_READ)

        def look(c: Connection) -> list[tuple[int, Ints]]:
            rows = c.execute(lengths).all()
            before = np.cumsum([0, *(row.stored_tokens for row in rows)])[:-1]
            first = min((row.id for row, n in zip(rows, before, strict=True) if n < most_tokens), default=0)
            query = select(turns.id, turns.tokens).where(newer, turns.id >= first).order_by(turns.id)
            return [(row.id, opened_tokens(self.database.cipher, row)) for row in c.execute(query)] if rows else []

        return await self.database.looking(look)

    async def donors(self, scope: Scope, turn_ids: Sequence[int]) -> list[Donor]:
        """Turns as donors, in the order asked for; turns without any visible block are left out."""
        if not turn_ids:
            return []
        wanted = self.database.any_of(t.turns.c.id, list(turn_ids))
        turns = select(t.turns.c.id, t.turns.c.tokens, t.turns.c.exact_tokens, t.turns.c.depth).where(
            _within(t.turns, scope), wanted
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
            .where(self.database.any_of(t.turn_blocks.c.turn_id, list(turn_ids)), self.database.visible())
            .order_by(t.turn_blocks.c.turn_id, t.turn_blocks.c.start)
        )

        def look(c: Connection) -> list[Donor]:
            rows = {row.id: row for row in c.execute(turns)}
            tokens = {i: opened_tokens(self.database.cipher, row) for i, row in rows.items()}
            refs: dict[int, list[BlockRef]] = {}
            for part in c.execute(parts):
                refs.setdefault(part.turn_id, []).append(BlockRef(part.key, part.start, part.length, part.stored))
            return [
                Donor(
                    turn_id=i,
                    tokens=tokens[i],
                    blocks=tuple(refs[i]),
                    exact_tokens=rows[i].exact_tokens,
                    depth=rows[i].depth,
                )
                for i in turn_ids
                if i in rows and i in refs and len(tokens[i])
            ]

        return await self.database.looking(look)


def opened_tokens(cipher: Cipher, row: Any) -> Ints:
    """A turn's tokens; none where they are damaged or cannot be opened: such a turn is nobody's donor.

    Args:
        cipher: Opens them.
        row: The turn's `id` and `tokens`.
    """
    try:
        stored = cipher.decrypt(row.tokens, f"turns|tokens|{row.id}")
    except SealedError as e:
        log.warning("turn %d serves nobody: %s", row.id, e)
        stored = b""
    return np.frombuffer(stored if len(stored) % 4 == 0 else b"", dtype="<i4").astype(np.int64)


def _within(table: FromClause, scope: Scope) -> ColumnElement[bool]:
    """A look-up's border: rows of the scope, or of all that share its pool."""
    column = table.c.scope_id
    return column == scope.id if len(scope.reads) < 2 else column.in_(scope.reads)


def _newest_turn() -> Label[int]:
    """The newest turn that has a block: of all that share it, it has most of the conversation in one place."""
    newest = select(func.max(t.turn_blocks.c.turn_id)).where(t.turn_blocks.c.block_id == t.blocks.c.id)
    return newest.scalar_subquery().label("turn_id")
