"""What names a stored block of KV."""

from __future__ import annotations

from dataclasses import dataclass, field

from semshare_agents.kv.content import Content
from semshare_agents.kv.packing import Packed


@dataclass(frozen=True)
class BlockInfo:
    """What names a stored block.

    Attributes:
        key: Name of the block; keys are never used twice.
        fingerprint: Fingerprint of the model that computed it.
        tokens: Tokens in it.
        claims: What the registry says of its content; no part of its name.
    """

    key: str
    fingerprint: str
    tokens: int
    claims: tuple[Content, ...] = field(default=(), compare=False)

    def refuse(self, packed: Packed) -> str:
        """Why KV is not what the registry takes it for; empty where it is."""
        return next((problem for claim in self.claims if (problem := claim.mismatch(packed.content))), "")
