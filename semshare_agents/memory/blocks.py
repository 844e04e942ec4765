"""A block's row and its KV go together; nothing else drops rows or deletes KV."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from semshare_agents.concurrency import threads
from semshare_agents.registry import NewBlock, Registry


@dataclass(frozen=True)
class Blocks:
    """Drops blocks.

    Attributes:
        registry: Has their rows.
        remove: Removes their KV from wherever it is; unknown keys are ignored.
    """

    registry: Registry
    remove: Callable[[Sequence[str]], None]

    async def drop(self, keys: Sequence[str], kind: str, detail: str) -> None:
        """Forget blocks. Rows first: KV without a row is an orphan, a row without KV is a promise that is broken.

        Args:
            keys: The blocks.
            kind: `evict` or `miss`.
            detail: Why.

        Raises:
            RegistryError: the database cannot be written.
            StoreError: KV cannot be removed.
        """
        await self.registry.drop_blocks(keys, kind, detail)
        await self.delete(keys)

    async def delete(self, keys: Sequence[str]) -> None:
        """Remove KV that no row names.

        Raises:
            StoreError: it cannot be removed.
        """
        if keys:
            await threads.store(self.remove, keys)


def fresh(blocks: Sequence[NewBlock]) -> list[str]:
    """Keys of blocks that no row names yet."""
    return [block.key for block in blocks if not block.known]


def unwritten(blocks: Sequence[NewBlock]) -> list[NewBlock]:
    """New blocks that only RAM has."""
    return [block for block in blocks if not block.known and not block.durable]
