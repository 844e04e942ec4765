"""Whose KV a memory keeps, and how."""

from __future__ import annotations

from dataclasses import dataclass

from semshare_agents.kv.packing import Packing
from semshare_agents.model.loading import LoadedModel


@dataclass(frozen=True)
class BlockSpec:
    """Whose KV is kept, and how.

    Attributes:
        model: The model that computes it.
        packing: How it is packed.
        block_tokens: Tokens of a block.
    """

    model: LoadedModel
    packing: Packing
    block_tokens: int

    @property
    def fingerprint(self) -> str:
        """Under what KV is kept that the model computes as it is now; looking takes milliseconds."""
        return self.packing.fingerprint(self.model.fingerprint)
