"""Which processes use a PostgreSQL registry: advisory locks, which end with the process that holds them.

No table and no clock: the server lets go of a session's locks when its connection ends, however the process ended. On
SQLite all processes are on one machine and a lock file says the same (`semshare_agents.llm`).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

from sqlalchemy import BigInteger, bindparam, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

ALIVE_KEY = 0x5E3A_11FE
"""The lock that every process shares."""


class Liveness:
    """This process's word that it lives.

    Args:
        engine: A PostgreSQL engine in autocommit.
        holder: This process's name in `blocks.holder`.
    """

    def __init__(self, engine: AsyncEngine, holder: str):
        self._engine = engine
        self._holder = holder
        self._connection: AsyncConnection | None = None

    async def announce(self) -> None:
        """Be known as alive until `close` or the end of the process."""
        if self._connection is None:
            connection = await self._engine.connect()
            await _call(connection, "pg_advisory_lock_shared", ALIVE_KEY)
            await _call(connection, "pg_advisory_lock", _key(self._holder))
            self._connection = connection

    async def ended(self, holders: Iterable[str]) -> list[str]:
        """Those of other processes' names whose process has ended."""
        gone = []
        async with self._engine.connect() as connection:
            for holder in holders:
                if await _call(connection, "pg_try_advisory_lock", _key(holder)):
                    await _call(connection, "pg_advisory_unlock", _key(holder))
                    gone.append(holder)
        return gone

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[bool]:
        """Whether no process is known as alive; while this lasts, none can announce itself."""
        async with self._engine.connect() as connection:
            alone = await _call(connection, "pg_try_advisory_lock", ALIVE_KEY)
            try:
                yield alone
            finally:
                if alone:
                    await _call(connection, "pg_advisory_unlock", ALIVE_KEY)

    async def close(self) -> None:
        """Let go of the locks."""
        if self._connection is not None:
            # A pooled connection would keep them.
            await self._connection.invalidate()
            await self._connection.close()
            self._connection = None


def _key(holder: str) -> int:
    """A holder's 128-bit name as a signed 64-bit lock number."""
    return int.from_bytes(bytes.fromhex(holder)[:8], "big", signed=True)


async def _call(connection: AsyncConnection, function: str, key: int) -> bool:
    statement = text(f"SELECT {function}(:key)").bindparams(bindparam("key", key, BigInteger()))
    return bool((await connection.execute(statement)).scalar())
