"""The database as every part of the registry has it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar
from uuid import uuid4

from sqlalchemy import ColumnElement, Connection, Engine, Row, Table, insert, or_
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from semshare_agents.concurrency import threads
from semshare_agents.errors import RegistryUnavailableError
from semshare_agents.registry import engine as lists
from semshare_agents.registry import schema
from semshare_agents.registry import tables as t
from semshare_agents.registry.engine import wrapped
from semshare_agents.registry.liveness import Liveness
from semshare_agents.registry.name_keys import NameKeys
from semshare_agents.security.encryption import Cipher

T = TypeVar("T")
AnyRow = Row[*tuple[Any, ...]]


class Database:
    """One database and what this process is to it; SQL errors leave it as the package's own.

    Args:
        engine: To read and write with.
        look_ups: To look up with in threads; None where the async driver does it.
        event_rows: Most rows of a log; the oldest go first.
        names: How names are keyed, and who shares them.
        cipher: Encrypts texts and token ids.

    Attributes:
        holder: This process's name in `blocks.holder`.
        liveness: Which processes use a server; None on SQLite, where lock files say it.
    """

    def __init__(self, engine: AsyncEngine, look_ups: Engine | None, event_rows: int, names: NameKeys, cipher: Cipher):
        self.engine = engine
        self._reader = engine.execution_options(isolation_level="AUTOCOMMIT", readonly=True)
        self._look_ups = look_ups
        self.event_rows = event_rows
        self.names = names
        self.cipher = cipher
        self.holder = uuid4().hex
        self.liveness = Liveness(self._reader, self.holder) if self.dialect == "postgresql" else None

    @property
    def dialect(self) -> str:
        """`sqlite` or `postgresql`."""
        return self.engine.dialect.name

    async def prepare(self, url: str, timeout_seconds: float, upgrade: bool) -> None:
        """Bring the database up to this package's schema version; arguments and errors as in `Registry.open`."""
        try:
            async with self._reader.connect() as connection:
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
        if self.liveness is not None:
            await self.liveness.close()
        if self._look_ups is not None:
            await asyncio.to_thread(self._look_ups.dispose)
        await self.engine.dispose()

    # --- connections

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncConnection]:
        """A connection each of whose statements sees what is committed then; it waits for nobody."""
        async with wrapped(), self._reader.connect() as connection:
            yield connection

    async def looking(self, look: Callable[[Connection], T]) -> T:
        """Run a look-up where statements cost least: in a thread on SQLite, on the async driver elsewhere."""
        async with wrapped():
            if self._look_ups is not None:
                return await threads.work(_looked, self._look_ups, look)
            async with self._reader.connect() as connection:
                return await connection.run_sync(look)

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[AsyncConnection]:
        """A transaction; writers take turns, so what is read in it is still true when it writes."""
        async with wrapped(), self.engine.begin() as connection:
            yield connection

    # --- what parts say alike

    def any_of(self, column: ColumnElement[Any], values: Sequence[int] | Sequence[str]) -> ColumnElement[bool]:
        """`column IN (values)` with the values as one bound parameter, however many there are."""
        return lists.any_of(column, values, self.dialect)

    def visible(self) -> ColumnElement[bool]:
        """Blocks whose KV this process can have: on disk, or held by itself."""
        return or_(t.blocks.c.holder.is_(None), t.blocks.c.holder == self.holder)

    async def log(self, c: AsyncConnection, log: Table, rows: Sequence[Mapping[str, Any]]) -> None:
        """Add rows, which name the same columns, to a log whose oldest rows go."""
        await c.execute(insert(log), rows)
        await c.execute(lists.oldest(log, self.event_rows))


class Part:
    """A part of the registry. Parts share the database and do not know each other: each works alone."""

    def __init__(self, database: Database):
        self.database = database


def _looked(engine: Engine, look: Callable[[Connection], T]) -> T:
    with engine.connect() as connection:
        return look(connection)
