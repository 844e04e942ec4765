"""How an adapter starts: its tiers, the lock that says it lives, what ended processes left, and limits that changed."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from semshare_agents import pinning, private, threads
from semshare_agents.errors import StoreNotWritableError
from semshare_agents.evict import EvictionPolicy
from semshare_agents.kv.packing import Packing
from semshare_agents.registry import Registry
from semshare_agents.registry.keeping import KeptBlock
from semshare_agents.remember import record_departures
from semshare_agents.sealing import Sealer
from semshare_agents.settings import Settings
from semshare_agents.store import BlockStore, DeviceStore, DiskStore, MemoryStore, Tier, Tiers
from semshare_agents.store.tiers import Leases, Limits, Owner


def make_tiers(
    settings: Settings, packing: Packing, policies: dict[str, EvictionPolicy], leases: Leases, sealer: Sealer
) -> list[Tier]:
    """The tiers that have a budget, fastest first."""
    limits = Limits(settings.high_watermark, settings.low_watermark, settings.tenant_bytes)

    def tier(store: BlockStore, budget_bytes: int) -> Tier:
        return Tier(store, budget_bytes, policies[store.name], leases, limits)

    tiers: list[Tier] = []
    if settings.device_bytes:
        device = "cuda" if settings.device == "auto" else settings.device
        tiers.append(tier(DeviceStore(device, packing), settings.device_bytes))
    if settings.memory_bytes:
        tiers.append(tier(MemoryStore(packing=packing), settings.memory_bytes))
    if settings.disk_bytes:
        tiers.append(tier(DiskStore(settings.kv_dir, packing, sealer), settings.disk_bytes))
    return tiers


def _described(tiers: Tiers, blocks: Sequence[KeptBlock]) -> None:
    for block in blocks:
        use = Owner(block.tenant, block.session).use(block.used_at)
        for tier in tiers.tiers:
            tier.describe(block.key, block.start, block.length, block.tenant, tiers.seconds, use)


def announce(home: Path) -> tuple[IO[bytes], bool]:
    """Take the lock that says this process lives; the second value says whether no other one does.

    Who is alone has it exclusively until its start has cleaned up; others wait for that.
    """
    try:
        private.folder(home)
        handle = os.fdopen(private.opened(home / "alive.lock", os.O_WRONLY | os.O_APPEND), "ab")
    except OSError as e:
        raise StoreNotWritableError(f"the folder {home} is not writable ({e.strerror}): give another home") from e
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return handle, True
    except OSError:
        fcntl.flock(handle, fcntl.LOCK_SH)
        return handle, False


async def clean(registry: Registry, tiers: Tiers, alone: bool) -> None:
    """Take over or forget what processes that ended had in RAM.

    On SQLite a shared lock says that a process lives, and whoever gets it exclusively is alone. A server knows by
    its own locks who lives.
    """
    if alone and await registry.unerased():
        # Whoever forgot was interrupted.
        await threads.store(tiers.forget, await registry.forgotten_keys())
        await registry.erase()
    await registry.announce()
    ended = await (registry.foreign() if alone and registry.dialect == "sqlite" else registry.abandoned())
    durable = tiers.durable
    await registry.made_durable([k for k in ended if durable is not None and k in durable])
    rest = [k for k in ended if durable is None or k not in durable]
    await registry.drop_blocks(rest, "evict", "was in the memory of a process that ended")


async def hold_to_limits(registry: Registry, tiers: Tiers, settings: Settings) -> None:
    """Let policies know what was found on disk, and let go what lowered budgets and quotas no longer hold."""
    await threads.work(_described, tiers, await registry.kept_blocks())
    pinned = [block for block in await registry.pinned_blocks() if block.key in tiers.slowest]
    pinning.check(pinned, settings, tiers.slowest.size_of)
    await pinning.refresh(registry, tiers)
    await threads.store(tiers.trim)
    await record_departures(registry, tiers, tiers.departures())
