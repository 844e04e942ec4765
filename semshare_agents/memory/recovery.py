"""What ended processes and lowered limits leave behind."""

from __future__ import annotations

from collections.abc import Sequence

from semshare_agents.concurrency import threads
from semshare_agents.memory import pins
from semshare_agents.memory.blocks import Blocks
from semshare_agents.memory.memory import Memory
from semshare_agents.registry import Registry
from semshare_agents.registry.eviction import StoredBlock
from semshare_agents.settings import Settings
from semshare_agents.store.loaded import Owner
from semshare_agents.store.tiers import Tiers


async def recover(registry: Registry, tiers: Tiers, alone: bool) -> None:
    """Take over or drop what processes that ended had in RAM.

    On SQLite a shared lock says that a process lives, and whoever gets it exclusively is alone. A server knows by its
    own locks who lives.

    Args:
        registry: The rows.
        tiers: The KV.
        alone: Whether no other process uses the folder.

    Raises:
        RegistryError: the database fails.
        StoreError: a file cannot be removed.
    """
    durable, blocks = tiers.durable, Blocks(registry, tiers.forget)
    if alone and await registry.unerased():
        # Whoever forgot was interrupted.
        await blocks.delete(await registry.forgotten_keys())
        await registry.erase()
    await registry.announce()
    ended = await (registry.foreign() if alone and registry.dialect == "sqlite" else registry.abandoned())
    await registry.made_durable([key for key in ended if durable is not None and key in durable])
    rest = [key for key in ended if durable is None or key not in durable]
    await blocks.drop(rest, "evict", "was in the memory of a process that ended")


async def hold_to_limits(memory: Memory, settings: Settings) -> None:
    """Let policies know what was found on disk, and let go what lowered budgets and quotas no longer hold.

    Raises:
        PinError: what is pinned exceeds a quota or a budget.
    """
    registry, tiers = memory.registry, memory.tiers
    await threads.work(_describe, tiers, await registry.kept_blocks())
    pinned = [block for block in await registry.pinned_blocks() if block.key in tiers.slowest]
    pins.check(pinned, settings, tiers.slowest.size_of)
    await pins.refresh(registry, tiers)
    await threads.store(tiers.trim)
    await memory.settle()


def _describe(tiers: Tiers, blocks: Sequence[StoredBlock]) -> None:
    for block in blocks:
        use = Owner(block.tenant, block.session).use(block.used_at)
        for tier in tiers.tiers:
            tier.describe(block.key, block.start, block.length, block.tenant, tiers.seconds, use)
