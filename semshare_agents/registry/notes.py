"""Notes: what an integration keeps with a stored turn, such as the answer in the form in which it was given.

A note is part of its turn's report: it is encrypted with it, goes with it, and needs no table of its own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Select, select, update

from semshare_agents.errors import NotStoredError
from semshare_agents.registry import tables as t
from semshare_agents.registry.database import Part
from semshare_agents.registry.naming import session_id

NOTE = "note"
READ_AT_ONCE = 32


@dataclass(frozen=True)
class Note:
    """A turn's note.

    Attributes:
        turn_id: The turn.
        values: What was noted, as JSON values.
    """

    turn_id: int
    values: Mapping[str, Any]


@dataclass(frozen=True)
class Noted:
    """A note and what was said in its turn.

    Attributes:
        turn_id: The turn.
        values: What was noted, as JSON values.
        messages: The prompt's messages.
        answer: The answer as it was written.
    """

    turn_id: int
    values: Mapping[str, Any]
    messages: list[dict[str, Any]]
    answer: str


class Notes(Part):
    """The part of the registry that keeps notes; raises `SealedError` where a key is missing."""

    async def note(self, tenant: str, turn_id: int, values: Mapping[str, Any]) -> None:
        """Keep a note with a turn; one that is there already is replaced.

        Raises:
            NotStoredError: the tenant has no such turn.
        """
        query = (
            select(t.turns.c.id, t.turns.c.report)
            .join(t.scopes, t.scopes.c.id == t.turns.c.scope_id)
            .join(t.tenants, t.tenants.c.id == t.scopes.c.tenant_id)
            .where(t.turns.c.id == turn_id, t.tenants.c.name == tenant)
        )
        cipher = self.database.cipher
        async with self.database.writing() as c:
            row = (await c.execute(query)).first()
            if row is not None:
                report = {**json.loads(cipher.decrypted(row._mapping)["report"]), NOTE: dict(values)}
                sealed = cipher.encrypted({"report": json.dumps(report, separators=(",", ":"))}, turn_id)
                await c.execute(update(t.turns).where(t.turns.c.id == turn_id).values(**sealed))
        if row is None:
            raise NotStoredError(f"tenant {tenant!r} has no turn {turn_id}: it was not stored, or was forgotten")

    async def notes(self, tenant: str, session: str, after: int = 0) -> list[Note]:
        """Notes of a session's turns, oldest first.

        Args:
            tenant: Whose.
            session: The session.
            after: Only of turns with larger ids.
        """
        query = _reports(tenant, session).where(t.turns.c.id > after).order_by(t.turns.c.id)
        async with self.database.reading() as c:
            found = [(row.id, self._note_of(row._mapping)) for row in await c.execute(query)]
        return [Note(turn_id, values) for turn_id, values in found if values is not None]

    async def noted(self, tenant: str, session: str, name: str) -> Noted | None:
        """The turn of a session whose note has the `id` name; None where there is none."""
        newest = _reports(tenant, session).order_by(t.turns.c.id.desc()).limit(READ_AT_ONCE)
        async with self.database.reading() as c:
            query = newest
            while rows := (await c.execute(query)).all():
                for row in rows:
                    values = self._note_of(row._mapping)
                    if values is not None and values.get("id") == name:
                        said = select(t.turns.c.id, t.turns.c.messages, t.turns.c.answer).where(t.turns.c.id == row.id)
                        turn = (await c.execute(said)).first()
                        return None if turn is None else self._noted(turn._mapping, values)
                query = newest.where(t.turns.c.id < rows[-1].id)
        return None

    def _noted(self, row: Mapping[Any, Any], values: Mapping[str, Any]) -> Noted:
        turn = self.database.cipher.decrypted(row)
        return Noted(turn["id"], values, json.loads(turn["messages"]), turn["answer"])

    def _note_of(self, row: Mapping[Any, Any]) -> Mapping[str, Any] | None:
        report = self.database.cipher.decrypted(row)["report"]
        found: Mapping[str, Any] | None = json.loads(report).get(NOTE) if f'"{NOTE}":' in report else None
        return found


def _reports(tenant: str, session: str) -> Select[Any]:
    mine = session_id(tenant, session).scalar_subquery()
    return select(t.turns.c.id, t.turns.c.report).where(t.turns.c.session_id == mine)


def without_note(report: str) -> str:
    """A stored report as it was before a note was kept with it."""
    if f'"{NOTE}":' not in report:
        return report
    return json.dumps({k: v for k, v in json.loads(report).items() if k != NOTE}, separators=(",", ":"))
