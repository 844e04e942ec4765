"""The registry's face: opening it, and all that its parts can do."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from semshare_agents.registry.browsing import Browsing
from semshare_agents.registry.consistency import Consistency
from semshare_agents.registry.database import Database
from semshare_agents.registry.drift import Drift
from semshare_agents.registry.engine import make_engine, make_look_up_engine, wrapped
from semshare_agents.registry.erasure import Erasure
from semshare_agents.registry.eviction import Eviction
from semshare_agents.registry.finding import Finding
from semshare_agents.registry.forgetting import Forgetting
from semshare_agents.registry.name_keys import NameKeys
from semshare_agents.registry.notes import Notes
from semshare_agents.registry.pinning import Pinning
from semshare_agents.registry.replay import Replay
from semshare_agents.registry.scopes import Scopes
from semshare_agents.registry.writing import Writing
from semshare_agents.security.encryption import Cipher
from semshare_agents.security.name_key import KEY_BYTES

EVENT_ROWS = 200_000


class Registry(
    Scopes, Finding, Writing, Notes, Forgetting, Erasure, Pinning, Eviction, Drift, Browsing, Consistency, Replay
):
    """Async access to one registry database: its parts at one address.

    Use `Registry.open`. Blocks held in another process's RAM are invisible here; `database.holder` names this process.
    """

    @classmethod
    async def open(
        cls,
        url: str,
        *,
        timeout_seconds: float = 10.0,
        upgrade: bool = False,
        event_rows: int = EVENT_ROWS,
        names_key: bytes = bytes(KEY_BYTES),
        pools: Mapping[str, Sequence[str]] | None = None,
        cipher: Cipher | None = None,
    ) -> Registry:
        """Open a database, creating its tables when it is new.

        Args:
            url: An async SQLAlchemy URL.
            timeout_seconds: How long a server may take to answer.
            upgrade: Whether a database of an older schema version may be upgraded: nothing else uses it.
            event_rows: Most rows of the log of events, and of drift samples; the oldest go first.
            names_key: Keys all names, 32 bytes; with another one nothing is found.
            pools: Tenants that reuse one another's KV, by the pool's name; a tenant is in one at most.
            cipher: Encrypts texts and token ids; None for one without keys.

        Raises:
            ConfigurationError: the URL is malformed.
            RegistryUnavailableError: the database cannot be reached.
            SchemaVersionError: it belongs to another schema version.
        """
        engine = await asyncio.to_thread(make_engine, url, timeout_seconds)
        look_ups = await asyncio.to_thread(make_look_up_engine, engine.url)
        names = NameKeys(names_key, pools or {})
        database = Database(engine, look_ups, event_rows, names, cipher or Cipher())
        try:
            await database.prepare(url, timeout_seconds, upgrade)
        except BaseException:
            await database.close()
            raise
        return cls(database)

    @property
    def dialect(self) -> str:
        """`sqlite` or `postgresql`."""
        return self.database.dialect

    async def announce(self) -> None:
        """Let other processes know that this one lives; SQLite has nobody to tell.

        Raises:
            RegistryUnavailableError: the database fails.
        """
        if self.database.liveness is not None:
            async with wrapped():
                await self.database.liveness.announce()

    async def close(self) -> None:
        """Close all connections."""
        await self.database.close()
