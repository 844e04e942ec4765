"""Opening the database: engine, SQLite's pragmas, and lists as bound values."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy import (
    ARRAY,
    URL,
    BindParameter,
    ColumnElement,
    Delete,
    Engine,
    Table,
    TableValuedAlias,
    Text,
    bindparam,
    cast,
    create_engine,
    delete,
    event,
    func,
    select,
)
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, InterfaceError, NoSuchModuleError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from semshare_agents.errors import ConfigurationError, RegistryError, RegistryUnavailableError
from semshare_agents.security import files as private
from semshare_agents.values import Ints

BUSY_TIMEOUT_SECONDS = 30.0
COMMAND_TIMEOUT_SECONDS = 60.0
WRITERS_KEY = 0x5E3A_3217


def make_engine(url: str, timeout_seconds: float = 10.0, *, migrating: bool = False) -> AsyncEngine:
    """An async engine whose writers take turns, on SQLite by immediate transactions, on PostgreSQL by a lock.

    Args:
        url: The database.
        timeout_seconds: How long a server may take to accept a connection.
        migrating: Statements may take as long as they need, and tables may be rebuilt under their references.

    Raises:
        ConfigurationError: the URL is malformed or names a driver that is not installed.
        RegistryUnavailableError: the folder of a SQLite file cannot be made.
    """
    try:
        parsed = make_url(url)
        if parsed.get_backend_name() == "sqlite":
            if parsed.database and parsed.database != ":memory:":
                # SQLite gives the files beside it the mode of the database itself.
                private.folder(Path(parsed.database).parent)
                os.close(private.opened(Path(parsed.database), os.O_RDWR))
            engine = create_async_engine(parsed, connect_args={"timeout": BUSY_TIMEOUT_SECONDS})
            event.listen(engine.sync_engine, "connect", _prepare_migration if migrating else _prepare_sqlite)
            event.listen(engine.sync_engine, "begin", _begin_immediate)
            return engine
        return _server_engine(parsed, timeout_seconds, migrating)
    except (ArgumentError, NoSuchModuleError, ModuleNotFoundError) as e:
        raise ConfigurationError(f"database_url must be an async SQLAlchemy URL with its driver installed: {e}") from e
    except OSError as e:
        raise RegistryUnavailableError(f"the database's folder cannot be made: {e}") from e


def make_look_up_engine(url: URL) -> Engine | None:
    """An engine for look-ups in threads; None where the database is not a SQLite file.

    The async driver hands each statement to its thread four times and each connection three times; a look-up of ten
    statements waits longer for that than for SQLite.

    Args:
        url: The database, as the async engine has it.
    """
    if url.get_backend_name() != "sqlite" or url.database in (None, "", ":memory:"):
        return None
    url = url.set(drivername="sqlite")
    # The connection that was used last has the pages that are wanted next.
    engine = create_engine(url, pool_use_lifo=True, connect_args={"timeout": BUSY_TIMEOUT_SECONDS})
    event.listen(engine, "connect", _prepare_look_ups)
    return engine


def _server_engine(url: URL, timeout_seconds: float, migrating: bool) -> AsyncEngine:
    if url.drivername != "postgresql+asyncpg":
        raise ConfigurationError(
            f"database_url must begin with sqlite+aiosqlite:// or postgresql+asyncpg://, not {url.drivername}://"
        )
    limits = {
        "timeout": timeout_seconds,
        "command_timeout": None if migrating else COMMAND_TIMEOUT_SECONDS,
        # A writer that stopped half-way must not keep all others waiting for ever.
        "server_settings": {
            "lock_timeout": f"{BUSY_TIMEOUT_SECONDS:.0f}s",
            "idle_in_transaction_session_timeout": f"{COMMAND_TIMEOUT_SECONDS:.0f}s",
        },
    }
    engine = create_async_engine(url, pool_pre_ping=True, connect_args=limits)
    event.listen(engine.sync_engine, "begin", _begin_in_turn)
    return engine


@asynccontextmanager
async def wrapped() -> AsyncIterator[None]:
    """SQL errors as the package's own."""
    try:
        yield
    except (OperationalError, InterfaceError) as e:
        raise RegistryUnavailableError(f"the registry database fails: {e.orig}") from e
    except DBAPIError as e:
        raise RegistryError(f"the registry refuses a statement: {e.orig}") from e
    except (PoolTimeoutError, OSError) as e:
        raise RegistryUnavailableError(f"the registry database does not answer: {e or type(e).__name__}") from e


def _prepare_migration(connection: Any, record: Any) -> None:
    _prepare_sqlite(connection, record)
    cursor = connection.cursor()
    # A table that is rebuilt is dropped in between; its children stay, and are checked before the commit.
    cursor.execute("PRAGMA foreign_keys=OFF")
    cursor.close()


def _prepare_sqlite(connection: Any, _: Any) -> None:
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=NORMAL")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.execute("PRAGMA cache_size=-65536")
    cursor.close()


def _prepare_look_ups(connection: Any, record: Any) -> None:
    _prepare_sqlite(connection, record)
    cursor = connection.cursor()
    cursor.execute("PRAGMA query_only=ON")
    cursor.close()


def _begin_immediate(connection: Any) -> None:
    # A transaction that turns into a writer half-way fails when another one wrote in between; ours say so at once.
    if not connection.get_execution_options().get("readonly"):
        connection.exec_driver_sql("BEGIN IMMEDIATE")


def _begin_in_turn(connection: Any) -> None:
    # One writer at a time, as on SQLite: what is read in a transaction is still true when it writes, nothing deadlocks.
    if not connection.get_execution_options().get("readonly"):
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({WRITERS_KEY})")


def any_of(column: ColumnElement[Any], values: Sequence[int] | Sequence[str], dialect: str) -> ColumnElement[bool]:
    """`column IN (values)` with the values as one bound parameter, however many there are.

    Args:
        column: An integer or string column.
        values: What it may be.
        dialect: Name of the SQL dialect.
    """
    if dialect == "sqlite":
        return column.in_(select(listed(values, column, dialect).c.value))
    return column == func.any(_array(values, column))


def listed(values: Sequence[int] | Sequence[str], column: ColumnElement[Any], dialect: str) -> TableValuedAlias:
    """Values as a table with one column `value`, passed as one bound parameter; arguments as in `any_of`."""
    if dialect == "sqlite":
        return func.json_each(bindparam(None, json.dumps(list(values)), unique=True)).table_valued("value")
    return func.unnest(_array(values, column)).table_valued("value").render_derived()


def gathered(ids: ColumnElement[int]) -> ColumnElement[str]:
    """Aggregates ids into one string a group, which costs less than a row each; `ids_of` reads it."""
    return func.aggregate_strings(cast(ids, Text), ",")


def ids_of(gathers: Sequence[str | None]) -> Ints:
    """All ids of what `gathered` gave, shape `(ids,)`; a group without rows has none."""
    return np.fromstring(",".join(filter(None, gathers)), np.int64, sep=",")


def _array(values: Sequence[int] | Sequence[str], column: ColumnElement[Any]) -> BindParameter[Any]:
    return bindparam(None, list(values), type_=ARRAY(column.type), unique=True)


def oldest(log: Table, kept: int) -> Delete:
    """Deletes all rows of a log but the newest so many; the log's `id` ascends."""
    newest = select(func.max(log.c.id)).scalar_subquery()
    return delete(log).where(log.c.id <= newest - kept)
