"""The contract of KV stores."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class BlockInfo:
    """What names a stored block.

    Attributes:
        key: Name of the block; keys are never used twice.
        fingerprint: Fingerprint of the model that computed it.
        tokens: Tokens in it.
    """

    key: str
    fingerprint: str
    tokens: int


class BlockStore(ABC):
    """Keeps KV blocks `(layers, 2, kv_heads, tokens, head_dim)` under their keys.

    All methods may be called from any thread. Blocks handed out are never written to by the store; callers must not
    write to them either. A store knows nothing of budgets; its `Tier` does.
    """

    name: str
    durable: bool = False
    """Whether blocks outlive the process."""

    def size_bytes(self, kv: torch.Tensor) -> int:
        """Most bytes that a block will take in this store."""
        return kv.nbytes

    @abstractmethod
    def put(self, info: BlockInfo, kv: torch.Tensor) -> int:
        """Keep a copy of a block; an existing key is left as it is.

        Returns:
            Bytes it takes in this store.

        Raises:
            StoreError: it cannot be kept; nothing half-written is left visible.
        """

    @abstractmethod
    def get(self, info: BlockInfo) -> torch.Tensor | None:
        """The block, or None where there is none.

        Raises:
            CorruptBlockError: what is stored is not the block that `info` names.
            StoreError: it cannot be read.
        """

    @abstractmethod
    def delete(self, key: str) -> None:
        """Forget a block; unknown keys are ignored."""

    @abstractmethod
    def entries(self) -> Iterator[tuple[str, int]]:
        """Key and bytes of every block, oldest first."""
