"""The SQL registry: tenants, sessions, turns, blocks, signatures and the log of reuse."""

from semshare_agents.registry.registry import NewBlock, NewTurn, Registry

__all__ = ["NewBlock", "NewTurn", "Registry"]
