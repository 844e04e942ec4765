"""Transactions, bounded logs and the drift monitor's books."""

from __future__ import annotations

import asyncio

import pytest

from semshare_agents.registry import DriftSample, Limit, Registry
from semshare_agents.testing.registries.made import FINGERPRINT, SIZE, OpenRegistry, RegistryTests, block, turn
from semshare_agents.values import Reuse, Scope


class Books(RegistryTests):
    """Transactions, bounded logs and the drift monitor's books."""

    async def test_a_failing_turn_leaves_nothing(self, registry: Registry, scope: Scope) -> None:
        """A key that is taken makes the whole transaction void."""
        part = block(0, "one")
        await registry.add_turn(scope, turn(part))
        before = await registry.statistics()
        with pytest.raises(Exception, match="registry"):
            await registry.add_turn(scope, turn(block(0, "two"), block(SIZE, "x", key=part.key), session="new"))
        assert await registry.statistics() == before

    async def test_the_logs_are_bounded(self, opened: OpenRegistry) -> None:
        """The newest events and samples stay."""
        registry = await opened(event_rows=5)
        scope = await registry.scope("acme", FINGERPRINT)
        ids = [await registry.add_turn(scope, turn(session="alice")) for _ in range(12)]
        for n, turn_id in enumerate(ids):
            await registry.add_drift(scope, DriftSample(turn_id, "moved", n / 100, 1.0, 8))
        async with registry.database.reading() as c:
            for table in ("events", "guard_samples"):
                rows = (await c.exec_driver_sql(f"SELECT turn_id FROM {table} ORDER BY id")).scalars().all()
                assert rows == ids[-5:]

    async def test_the_guard_s_books(self, registry: Registry, scope: Scope) -> None:
        """Samples newest last, by session or all; one limit each."""
        one = await registry.add_turn(scope, turn(session="alice"))
        two = await registry.add_turn(scope, turn(session="bob"))
        for turn_id, kl in ((one, 0.1), (two, 0.2), (one, 0.3)):
            await registry.add_drift(scope, DriftSample(turn_id, "moved", kl, 0.9, 8))
        assert await registry.drift(scope, None, "moved", 0.0, 2) == [0.2, 0.3]
        assert await registry.drift(scope, "alice", "moved", 0.0, 5) == [0.1, 0.3]
        assert await registry.drift(scope, None, "semantic", 0.0, 5) == []
        for limit in (Limit(Reuse.EXACT, "far off", 5.0), Limit(Reuse.MOVED, "better", 6.0)):
            await registry.set_limit(scope, "alice", limit, "narrow", one)
        await registry.set_limit(scope, None, Limit(Reuse.EXACT, "all", 7.0), "narrow", one)
        limits = await registry.limits(scope)
        assert limits == {"alice": Limit(Reuse.MOVED, "better", 6.0), None: Limit(Reuse.EXACT, "all", 7.0)}
        assert (await registry.guard_statistics())["samples"]["moved"]["samples"] == 3

    async def test_processes_may_write_at_once(self, opened: OpenRegistry) -> None:
        """New tenants, shared blocks, drops and takeovers from several sides: no error, no broken link."""
        registries = [await opened() for _ in range(3)]
        shared = block(0, "shared")
        scope = await registries[0].scope("acme", FINGERPRINT)
        await registries[0].add_turn(scope, turn(shared))
        await registries[0].made_durable([shared.key])

        async def work(registry: Registry, number: int) -> None:
            mine = await registry.scope(f"tenant {number % 4}", FINGERPRINT)
            known = block(0, "shared", key=shared.key, known=True)
            parts = [block(SIZE * (1 + n), f"{number}-{n}") for n in range(3)]
            await registry.add_turn(scope, turn(known, *parts, bands=(number, 1), session="one"))
            await registry.add_turn(mine, turn(block(0, f"m{number}"), session="two"))
            await registry.made_durable([p.key for p in parts])
            await registry.drop_blocks([parts[0].key, *([shared.key] if number == 7 else [])], "evict", "test")
            await registry.supersede(parts[1].key, parts[2].key)

        await asyncio.gather(*(work(registries[n % 3], n) for n in range(24)))
        figures = await registries[1].statistics()
        assert (figures["tenants"], figures["sessions"]) == (5, 5)
        assert figures["turns"]["cold"]["turns"] == 49
        assert figures["blocks"] == 24 * 2
        for registry in registries:
            assert await registry.broken_links() == 0
            assert await registry.unused() == []
