"""What was used when, for replaying a registry's past."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

from sqlalchemy import Row, select
from sqlalchemy.ext.asyncio import AsyncConnection

from semshare_agents.registry import tables as t


class HistoryQueries:
    """The part of the registry that replays read."""

    def _reading(self) -> AbstractAsyncContextManager[AsyncConnection]:
        raise NotImplementedError

    async def past_turns(self) -> Sequence[Row[*tuple[Any, ...]]]:
        """Every turn, oldest first: when it was stored, scope, session, tokens of its prompt, and its tokens, int32."""
        query = select(
            t.turns.c.created_at, t.turns.c.scope_id, t.turns.c.session_id, t.turns.c.prompt_tokens, t.turns.c.tokens
        ).order_by(t.turns.c.id)
        async with self._reading() as c:
            return (await c.execute(query)).all()

    async def token_bytes(self) -> float | None:
        """KV bytes of a stored token; None where nothing is stored."""
        query = select(t.blocks.c.size_bytes, t.blocks.c.length).order_by(t.blocks.c.id.desc()).limit(1)
        async with self._reading() as c:
            row = (await c.execute(query)).first()
        return None if row is None else row.size_bytes / row.length
