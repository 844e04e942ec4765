"""Eviction in a running memory: budgets, reasons on record, the past replayed."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import select

from semshare_agents.bench.traces import past
from semshare_agents.operate.audit import audit
from semshare_agents.registry import Registry
from semshare_agents.registry import tables as t
from semshare_agents.store import DiskStore
from tests import tiny
from tests.conftest import OpenLLM


async def test_evictions_are_on_record_and_the_past_can_be_replayed(open_llm: OpenLLM) -> None:
    llm = await open_llm(eviction="session", memory_bytes=150_000, disk_bytes=300_000, block_tokens=16)
    for number in range(8):
        session = llm.session(f"s{number % 3}", tenant=f"tenant {number % 2}")
        await session.send(tiny.words(60, number))
        await llm.settle()
        for tier in llm.pipeline.memory.tiers.tiers:
            assert tier.used_bytes <= tier.budget_bytes
            assert tier.used_bytes == sum(tier.tenant_bytes(f"tenant {i}") for i in range(2))
    registry = llm.pipeline.memory.registry
    async with registry.database.reading() as c:
        events = (await c.execute(select(t.events.c.kind, t.events.c.detail))).all()
    why = {(e.kind, e.detail) for e in events if e.kind in ("evict", "demote")}
    # Gone before their rows were there.
    why -= {("evict", "no tier had room"), ("evict", "no room on disk")}
    counted = {(tier.name, reason) for tier in llm.pipeline.memory.tiers.tiers for reason in tier.evicted}
    assert {tuple(detail.split(": ")) for _, detail in why} == counted
    assert {"memory", "disk"} == {tier for tier, _ in counted}
    assert {kind for kind, _ in why} == {"evict", "demote"}
    visits = await past(registry, 16)
    assert len(visits) == 8
    assert len({v.session for v in visits}) == 6
    assert await registry.token_bytes() == llm.pipeline.model.support.rows.token_bytes  # type: ignore[union-attr]
    again = await open_llm(eviction="session", memory_bytes=150_000, disk_bytes=100_000, block_tokens=16)
    disk = again.pipeline.memory.tiers.tiers[1]
    assert disk.used_bytes <= 100_000
    assert set(disk.evicted) == {"lowered-budget"}


async def test_what_leaves_the_disk_last_leaves_no_row_behind(open_llm: OpenLLM, tmp_path: Path) -> None:
    llm = await open_llm(memory_bytes=0, block_tokens=16)
    await llm.generate([tiny.user(tiny.words(120, 1))])
    await llm.flush()
    disk = llm.pipeline.memory.tiers.slowest
    disk.budget_bytes = disk.used_bytes // 2
    llm.pipeline.memory.tiers.trim()
    await llm.aclose()
    registry = await Registry.open(f"sqlite+aiosqlite:///{tmp_path / 'home' / 'registry.db'}")
    found = await audit(registry, DiskStore(tmp_path / "home" / "kv"))
    await registry.close()
    assert found.rows == found.files > 0
    assert found.gone == ()


async def test_what_left_the_disk_and_came_back_is_gone_for_every_process(open_llm: OpenLLM, tmp_path: Path) -> None:
    llm = await open_llm(memory_bytes=0, block_tokens=16)
    await llm.generate([tiny.user(tiny.words(120, 1))])
    await llm.flush()
    memory = llm.pipeline.memory
    info, depth = (await memory.registry.blocks())[0]
    kv = memory.tiers.load([info]).kv[info.key]
    disk, full = memory.tiers.slowest, memory.tiers.slowest.budget_bytes
    disk.budget_bytes = 0
    memory.tiers.trim()
    disk.budget_bytes = full
    assert memory.tiers.keep_durable(info, kv, depth)
    await memory.settle()
    assert await memory.registry.blocks() == []
    found = await audit(memory.registry, DiskStore(tmp_path / "home" / "kv"))
    assert found.files == found.rows == 0
