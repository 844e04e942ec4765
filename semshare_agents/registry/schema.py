"""The schema's version, and bringing a database up to this package's with Alembic.

A migration is one transaction, on SQLite as on PostgreSQL: whatever interrupts it, the database is what it was.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from sqlalchemy import Connection, inspect, make_url, text

from semshare_agents.errors import RegistryError, SchemaVersionError
from semshare_agents.registry.engine import make_engine, wrapped
from semshare_agents.registry.liveness import ALIVE_KEY
from semshare_agents.registry.tables import SCHEMA_VERSION

VERSION_TABLE = "semshare_version"
FIRST_VERSION_TABLE = "semshare_schema"
"""Where versions 1 and 2 kept their number."""


def version(connection: Connection) -> int:
    """A database's schema version; 0 where there is no registry yet.

    Raises:
        SchemaVersionError: what is there cannot be read as a version.
    """
    for table, column in ((VERSION_TABLE, "version_num"), (FIRST_VERSION_TABLE, "version")):
        if inspect(connection).has_table(table):
            found = connection.execute(text(f"SELECT max({column}) FROM {table}")).scalar()
            try:
                return int(found)  # type: ignore[arg-type]
            except (TypeError, ValueError):
                raise SchemaVersionError(f"{table} names no schema version but {found!r}: {_OTHERS}") from None
    return 0


_ALONE = text(f"SELECT pg_try_advisory_xact_lock({ALIVE_KEY})")
_OTHERS = "use the version of semshare-agents that made the database, or another database_url"


def check(found: int, may_upgrade: bool) -> None:
    """Refuse what must not be upgraded.

    Args:
        found: The database's version.
        may_upgrade: Whether an older one may be changed now.

    Raises:
        SchemaVersionError: it is newer than this package's, or older and may not be changed.
    """
    if found > SCHEMA_VERSION:
        raise SchemaVersionError(
            f"the registry has schema version {found}, newer than the {SCHEMA_VERSION} of this package: {_OTHERS}"
        )
    if 0 < found < SCHEMA_VERSION and not may_upgrade:
        raise SchemaVersionError(
            f"the registry has schema version {found}, this package needs {SCHEMA_VERSION}: "
            "end whatever else uses it, then run `semshare db upgrade`"
        )


async def current(url: str, timeout_seconds: float) -> int:
    """A database's schema version, 0 where there is no registry; makes nothing.

    Raises:
        RegistryUnavailableError: it cannot be reached.
        SchemaVersionError: what is there cannot be read as a version.
    """
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite" and not await asyncio.to_thread(Path(parsed.database or "").is_file):
        return 0
    engine = make_engine(url, timeout_seconds)
    try:
        async with wrapped(), engine.execution_options(isolation_level="AUTOCOMMIT", readonly=True).connect() as c:
            return await c.run_sync(version)
    finally:
        await engine.dispose()


async def migrate(url: str, timeout_seconds: float) -> int:
    """Bring a database up to this package's version, or make it; all or nothing.

    Args:
        url: The database.
        timeout_seconds: How long it may take to answer.

    Returns:
        The version it had; 0 for a new one.

    Raises:
        RegistryUnavailableError: it cannot be reached.
        SchemaVersionError: it is newer than this package, or older and in use.
        RegistryError: a step failed; nothing was changed.
    """
    # Alembic reads files and changes tables for as long as it takes: in a thread, with a loop of its own.
    return await asyncio.to_thread(lambda: asyncio.run(_in_one_transaction(url, timeout_seconds)))


async def _in_one_transaction(url: str, timeout_seconds: float) -> int:
    engine = make_engine(url, timeout_seconds, migrating=True)
    try:
        async with wrapped(), engine.begin() as connection:
            return await connection.run_sync(_migrate)
    finally:
        await engine.dispose()


def _migrate(connection: Connection) -> int:
    from alembic import command
    from alembic.config import Config

    # Another process may have been quicker; the transaction is a writer's, so this reading stays true.
    found = version(connection)
    check(found, may_upgrade=True)
    if found == SCHEMA_VERSION:
        return found
    if found and connection.dialect.name == "postgresql" and not connection.execute(_ALONE).scalar():
        raise SchemaVersionError("other processes use the registry: end them, then run `semshare db upgrade`")
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    if found and not inspect(connection).has_table(VERSION_TABLE):
        command.stamp(config, f"{found:04}")
    command.upgrade(config, f"{SCHEMA_VERSION:04}")
    if connection.dialect.name == "sqlite" and (broken := connection.exec_driver_sql("PRAGMA foreign_key_check").all()):
        raise RegistryError(f"the upgrade would break {len(broken)} references, nothing was changed: {_OTHERS}")
    return found
