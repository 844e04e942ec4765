"""Past turns: rows of the registry and KV of the tiers, together."""

from semshare_agents.memory.memory import BlockSpec, Memory

__all__ = ["BlockSpec", "Memory"]
