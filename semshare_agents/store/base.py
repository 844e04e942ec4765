"""The contract of KV stores."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext

from semshare_agents.kv.block import BlockInfo
from semshare_agents.kv.layout import KV
from semshare_agents.kv.packing import Packed, Packing, Raw, packing_of

__all__ = ["BlockInfo", "BlockStore"]


class BlockStore(ABC):
    """Keeps blocks of KV (see `semshare_agents.kv.layout`) under their keys, packed as `packing` says.

    All methods may be called from any thread. Blocks handed out are never written to by the store; callers must not
    write to them either. A store knows nothing of budgets; its `Tier` does.
    """

    name: str
    durable: bool = False
    """Whether blocks outlive the process."""
    packing: Packing = Raw()
    """How blocks that come unpacked are packed."""

    def packed(self, kv: KV | Packed) -> Packed:
        """A block as this store keeps it; one that is packed already stays as it is.

        Raises:
            StoreError: it cannot be packed.
        """
        return kv if isinstance(kv, Packed) else self.packing.pack(kv)

    def size_bytes(self, packed: Packed) -> int:
        """Most bytes that a block will take in this store."""
        return packed.nbytes

    def held(self) -> AbstractContextManager[None]:
        """While this lasts no other process changes what is kept here; may be nested in one thread.

        Raises:
            StoreError: others cannot be kept out.
        """
        return nullcontext()

    def news(self) -> Mapping[str, int | None]:
        """What other processes changed here since this was last asked; only while it is `held`.

        Returns:
            Bytes by key; None for blocks that are gone.
        """
        return {}

    @abstractmethod
    def put(self, info: BlockInfo, kv: KV | Packed) -> int:
        """Keep a copy of a block; an existing key is left as it is.

        Returns:
            Bytes it takes in this store.

        Raises:
            StoreError: it cannot be kept; nothing half-written is left visible.
        """

    @abstractmethod
    def get_packed(self, info: BlockInfo) -> Packed | None:
        """The block as it is kept, or None where there is none.

        Raises:
            CorruptBlockError: what is stored is not the block that `info` names.
            StoreError: it cannot be read.
        """

    def get(self, info: BlockInfo) -> KV | None:
        """The block, or None where there is none; errors as in `get_packed`."""
        packed = self.get_packed(info)
        return None if packed is None else packing_of(packed).unpack(packed)

    @abstractmethod
    def delete(self, key: str) -> None:
        """Forget a block; unknown keys are ignored."""

    def take(self, key: str) -> tuple[BlockInfo, Packed] | None:
        """Forget a block and hand it over, where the store can do so without reading it again; else just forget it."""
        self.delete(key)
        return None

    @abstractmethod
    def entries(self) -> Iterator[tuple[str, int]]:
        """Key and bytes of every block, oldest first."""
