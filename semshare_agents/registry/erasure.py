"""Acts of forgetting: noted, told to other processes, and followed until no file has what was forgotten."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterable, Sequence

from sqlalchemy import func, insert, or_, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from semshare_agents.errors import RegistryUnavailableError
from semshare_agents.registry import tables as t
from semshare_agents.registry.database import Part
from semshare_agents.registry.engine import oldest
from semshare_agents.registry.name_keys import NameKeys

KEPT_ACTS = 10_000
"""Acts of forgetting that are kept, for processes that have not heard of them."""
CHECKPOINT_TRIES = 50
CHECKPOINT_PAUSE_SECONDS = 0.1
NEWEST_ACT = select(func.coalesce(func.max(t.forgets.c.id), 0))


class Erasure(Part):
    """The part of the registry that knows what was forgotten, by digests of names alone."""

    async def newest_forget(self) -> int:
        """The newest act of forgetting; 0 where there was none."""
        async with self.database.reading() as c:
            return int((await c.execute(NEWEST_ACT)).scalar_one())

    async def forgotten(self, tenant: str, session: str | None, since: int) -> bool:
        """Whether a session, or for None turns without one, was touched by an act of forgetting after `since`."""
        async with self.database.reading() as c:
            return await forgotten_since(c, self.database.names, tenant, session, since)

    async def forgotten_keys(self, since: int = 0) -> list[str]:
        """Blocks dropped by acts of forgetting after `since`: whoever has their KV deletes it."""
        async with self.database.reading() as c:
            found = (await c.execute(select(t.forgets.c.block_keys).where(t.forgets.c.id > since))).scalars()
            return [key for keys in found for key in json.loads(keys)]

    async def unerased(self) -> int:
        """Acts of forgetting whose traces may still be in files: they were interrupted."""
        query = select(func.count()).select_from(t.forgets).where(t.forgets.c.erased == 0)
        async with self.database.reading() as c:
            return int((await c.execute(query)).scalar_one())

    async def erase(self) -> None:
        """Leave nothing of deleted rows in SQLite's files: they are written anew. A server does so by its own rules.

        Raises:
            RegistryUnavailableError: another process keeps reading an old state; the next `erase` does the rest.
        """
        async with self.database.reading() as c:
            newest = (await c.execute(NEWEST_ACT)).scalar_one()
        if self.database.dialect == "sqlite":
            async with self.database.reading() as c:
                await c.execute(text("VACUUM"))
                for _ in range(CHECKPOINT_TRIES):
                    if not (await c.execute(text("PRAGMA wal_checkpoint(TRUNCATE)"))).one()[0]:
                        break
                    await asyncio.sleep(CHECKPOINT_PAUSE_SECONDS)
                else:
                    raise RegistryUnavailableError(
                        "what was forgotten is gone from the tables, but another process still reads an old state of "
                        "the database's files: end it and run `semshare verify --fix`"
                    )
        async with self.database.writing() as c:
            await c.execute(update(t.forgets).where(t.forgets.c.id <= newest).values(erased=1))


async def note(
    c: AsyncConnection,
    names: NameKeys,
    tenant: str,
    sessions: Sequence[str | None],
    keys: Iterable[str],
    erased: bool = False,
) -> None:
    """Note an act of forgetting, in its transaction.

    Args:
        c: The transaction.
        names: Keys the digests.
        tenant: Whose.
        sessions: Names of those touched; an empty one for turns without a session, None for the whole tenant.
        keys: Blocks that were dropped.
        erased: Whether nothing is left to be done for it.
    """
    now, whose, listed = time.time(), names.digest(tenant), json.dumps(sorted(keys))
    for number, session in enumerate(sessions):
        values = {
            "at": now,
            "tenant": whose,
            "session": None if session is None else names.digest(session),
            "block_keys": "[]" if number else listed,
            "erased": int(erased),
        }
        await c.execute(insert(t.forgets).values(**values))
    await c.execute(oldest(t.forgets, KEPT_ACTS))


async def forgotten_since(c: AsyncConnection, names: NameKeys, tenant: str, session: str | None, since: int) -> bool:
    """As `Erasure.forgotten`, on a connection."""
    acts = t.forgets.c
    touches = or_(acts.session.is_(None), acts.session == names.digest(session or ""))
    query = select(acts.id).where(acts.id > since, acts.tenant == names.digest(tenant), touches).limit(1)
    return (await c.execute(query)).first() is not None
