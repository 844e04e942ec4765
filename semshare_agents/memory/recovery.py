"""What processes that ended left behind."""

from __future__ import annotations

from semshare_agents.memory.blocks import Blocks
from semshare_agents.registry import Registry
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
