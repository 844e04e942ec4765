"""Past turns: rows of the registry and KV of the tiers, together."""

from semshare_agents.memory.memory import Memory
from semshare_agents.memory.spec import BlockSpec

__all__ = ["BlockSpec", "Memory"]
