"""Opening the database: engine, SQLite's pragmas, and lists as bound values."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import ARRAY, BigInteger, ColumnElement, String, bindparam, event, func, select
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from semshare_agents.errors import ConfigurationError, RegistryUnavailableError

BUSY_TIMEOUT_SECONDS = 30.0


def make_engine(url: str) -> AsyncEngine:
    """An async engine; SQLite databases get WAL and immediate transactions for writers.

    Raises:
        ConfigurationError: the URL is malformed or names a driver that is not installed.
        RegistryUnavailableError: the folder of a SQLite file cannot be made.
    """
    try:
        parsed = make_url(url)
        if parsed.get_backend_name() == "sqlite":
            if parsed.database and parsed.database != ":memory:":
                Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
            engine = create_async_engine(parsed, connect_args={"timeout": BUSY_TIMEOUT_SECONDS})
            event.listen(engine.sync_engine, "connect", _prepare_sqlite)
            event.listen(engine.sync_engine, "begin", _begin_immediate)
            return engine
        return create_async_engine(parsed, pool_pre_ping=True)
    except (ArgumentError, NoSuchModuleError, ModuleNotFoundError) as e:
        raise ConfigurationError(f"database_url must be an async SQLAlchemy URL with its driver installed: {e}") from e
    except OSError as e:
        raise RegistryUnavailableError(f"the database's folder cannot be made: {e}") from e


def _prepare_sqlite(connection: Any, _: Any) -> None:
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=NORMAL")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.execute("PRAGMA cache_size=-65536")
    cursor.close()


def _begin_immediate(connection: Any) -> None:
    # A transaction that turns into a writer half-way fails when another one wrote in between; ours say so at once.
    if not connection.get_execution_options().get("readonly"):
        connection.exec_driver_sql("BEGIN IMMEDIATE")


def any_of(column: ColumnElement[Any], values: Sequence[int] | Sequence[str], dialect: str) -> ColumnElement[bool]:
    """`column IN (values)` with the values as one bound parameter, however many there are.

    Args:
        column: An integer or string column.
        values: What it may be.
        dialect: Name of the SQL dialect.
    """
    if dialect == "sqlite":
        listed = func.json_each(bindparam(None, json.dumps(list(values)), unique=True)).table_valued("value")
        return column.in_(select(listed.c.value))
    kind = String() if values and isinstance(values[0], str) else BigInteger()
    return column == func.any(bindparam(None, list(values), type_=ARRAY(kind), unique=True))
