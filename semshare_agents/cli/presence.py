"""Whether a command is alone with a memory."""

from __future__ import annotations

import fcntl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from semshare_agents.registry import Registry


@contextmanager
def alone_at(home: Path) -> Iterator[bool]:
    """Whether no other process of this machine uses a home; while this lasts, none can start to."""
    path = home / "alive.lock"
    if not path.exists():
        yield True
        return
    with path.open("ab") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
            return
        yield True


@asynccontextmanager
async def alone_with(registry: Registry, home: Path) -> AsyncIterator[bool]:
    """Whether no other process uses a registry's memory, on this machine or through the server."""
    with alone_at(home) as here:
        if registry.database.liveness is None:
            yield here
            return
        async with registry.database.liveness.alone() as everywhere:
            yield here and everywhere
