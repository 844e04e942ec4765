"""An open registry, and made-up turns and blocks to put into it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any
from uuid import uuid4

import numpy as np
import pytest

from semshare_agents.registry import NewBlock, NewTurn, Registry
from semshare_agents.values import Report, Scope

SIZE = 4
FINGERPRINT = "f" * 64
OpenRegistry = Callable[..., Awaitable[Registry]]


def block(start: int, name: str, **more: Any) -> NewBlock:
    """A block of four tokens, named after its text."""
    number = int.from_bytes(name.encode()[:7], "little")
    values: dict[str, Any] = {
        "start": start,
        "length": SIZE,
        "chain": name.ljust(32, "0"),
        "branch": f"b{name}".ljust(32, "0"),
        "content": -number,
        "key": uuid4().hex,
        "size_bytes": 10,
        "known": False,
    }
    return NewBlock(**{**values, **more})


def turn(*blocks: NewBlock, **more: Any) -> NewTurn:
    """A turn of these blocks that ran cold."""
    tokens = np.arange(sum(b.length for b in blocks), dtype=np.int64)
    counts = {"computed": len(tokens), "exact": 0, "moved": 0, "semantic": 0}
    report = Report("cold", counts, 1.0, {}, 0.0, 0, {}, 0.5, 1.0, "nothing like it")
    values: dict[str, Any] = {
        "tokens": tokens,
        "blocks": blocks,
        "bands": (),
        "messages": [{"role": "user", "content": "hello"}],
        "answer": "yes",
        "report": report,
        "prompt_tokens": len(tokens),
        "exact_tokens": len(tokens),
    }
    return NewTurn(**{**values, **more})


class RegistryTests:
    """What all tests of a registry need; the fixture `url` of an empty database is the deriving class's."""

    @pytest.fixture
    async def opened(self, url: str) -> AsyncIterator[OpenRegistry]:
        """Opens the database, as often as wanted; each stands for a process of its own."""
        async with AsyncExitStack() as stack:

            async def open_one(**options: Any) -> Registry:
                registry = await Registry.open(url, **options)
                stack.push_async_callback(registry.close)
                return registry

            yield open_one

    @pytest.fixture
    async def registry(self, opened: OpenRegistry) -> Registry:
        """An open, empty registry."""
        return await opened()

    @pytest.fixture
    async def scope(self, registry: Registry) -> Scope:
        """A tenant's scope."""
        return await registry.scope("acme", FINGERPRINT)
