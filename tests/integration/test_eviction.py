"""Eviction in a running memory: budgets, reasons on record, the past replayed."""

from __future__ import annotations

from sqlalchemy import select

from semshare_agents.bench.traces import past
from semshare_agents.registry import tables as t
from tests import tiny
from tests.conftest import OpenLLM


async def test_evictions_are_on_record_and_the_past_can_be_replayed(open_llm: OpenLLM) -> None:
    llm = await open_llm(eviction="session", memory_bytes=150_000, disk_bytes=300_000, block_tokens=16)
    for number in range(8):
        session = llm.session(f"s{number % 3}", tenant=f"tenant {number % 2}")
        await session.send(tiny.words(60, number))
        await llm.settle()
        for tier in llm.turns.tiers.tiers:
            assert tier.used_bytes <= tier.budget_bytes
            assert tier.used_bytes == sum(tier.tenant_bytes(f"tenant {i}") for i in range(2))
    registry = llm.turns.registry
    async with registry._reading() as c:
        events = (await c.execute(select(t.events.c.kind, t.events.c.detail))).all()
    why = {(e.kind, e.detail) for e in events if e.kind in ("evict", "demote")}
    why.discard(("evict", "no tier had room"))  # gone before its row was there
    counted = {(tier.name, reason) for tier in llm.turns.tiers.tiers for reason in tier.evicted}
    assert {tuple(detail.split(": ")) for _, detail in why} == counted
    assert {"memory", "disk"} == {tier for tier, _ in counted}
    assert {kind for kind, _ in why} == {"evict", "demote"}
    visits = await past(registry, 16)
    assert len(visits) == 8
    assert len({v.session for v in visits}) == 6
    assert await registry.token_bytes() == llm.turns.model.support.rows.token_bytes  # type: ignore[union-attr]
    again = await open_llm(eviction="session", memory_bytes=150_000, disk_bytes=100_000, block_tokens=16)
    disk = again.turns.tiers.tiers[1]
    assert disk.used_bytes <= 100_000
    assert set(disk.evicted) == {"lowered-budget"}
