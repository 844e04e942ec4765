"""What was used when, for replaying a registry's past."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import select

from semshare_agents.registry import tables as t
from semshare_agents.registry.database import Part
from semshare_agents.registry.finding import opened_tokens
from semshare_agents.values import Ints


@dataclass(frozen=True)
class PastTurn:
    """A turn as it was when it was stored.

    Attributes:
        at: When, in seconds since the epoch.
        scope_id: Tenant and model.
        session_id: Conversation; None for a stateless call.
        prompt_tokens: Tokens of its prompt.
        tokens: Its tokens, whatever became of their KV, shape `(tokens,)`; empty where they cannot be read.
    """

    at: float
    scope_id: int
    session_id: int | None
    prompt_tokens: int
    tokens: Ints


class Replay(Part):
    """The part of the registry that replays read."""

    async def past_turns(self) -> list[PastTurn]:
        """Every turn, oldest first."""
        turns = t.turns.c
        query = select(turns.id, turns.created_at, turns.scope_id, turns.session_id, turns.prompt_tokens, turns.tokens)
        query = query.where(turns.reuse_class != t.UNFINISHED).order_by(turns.id)
        async with self.database.reading() as c:
            rows = (await c.execute(query)).all()
        cipher = self.database.cipher
        return [
            PastTurn(r.created_at, r.scope_id, r.session_id, r.prompt_tokens, opened_tokens(cipher, r)) for r in rows
        ]

    async def token_bytes(self) -> float | None:
        """KV bytes of a stored token; None where nothing is stored."""
        query = select(t.blocks.c.size_bytes, t.blocks.c.length).order_by(t.blocks.c.id.desc()).limit(1)
        async with self.database.reading() as c:
            row = (await c.execute(query)).first()
        return None if row is None else row.size_bytes / row.length
