"""How a registry's names are keyed, and which tenants share them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import blake3

from semshare_agents.security.name_key import KEY_BYTES


@dataclass(frozen=True)
class NameKeys:
    """Keys for the names of tenants and models: names of tenants who share nothing never agree.

    Attributes:
        key: 32 bytes; with another one nothing is found.
        pools: Tenants that reuse one another's KV, by the pool's name; a tenant is in one at most.
    """

    key: bytes = bytes(KEY_BYTES)
    pools: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def members(self, tenant: str) -> Sequence[str]:
        """All tenants that a tenant shares with, itself among them."""
        return next((members for members in self.pools.values() if tenant in members), (tenant,))

    def seed(self, tenant: str, fingerprint: str) -> bytes:
        """What the names of a tenant, or of its pool, and of a model are keyed with; 32 bytes."""
        pool = next((name for name, members in self.pools.items() if tenant in members), None)
        kind, name = ("tenant", tenant) if pool is None else ("pool", pool)
        return blake3.blake3(f"{kind}|{len(name)}|{name}|{fingerprint}".encode(), key=self.key).digest()

    def check(self, tenant: str, fingerprint: str) -> str:
        """The digest by which a scope's row says that its names are of this seed."""
        return blake3.blake3(b"check" + self.seed(tenant, fingerprint)).hexdigest(length=16)

    def digest(self, name: str) -> str:
        """What stands for a tenant or session where its name must not."""
        return blake3.blake3(b"name" + name.encode(), key=self.key).hexdigest(length=16)
