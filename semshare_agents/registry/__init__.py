"""The SQL registry: tenants, sessions, turns, blocks, signatures and the log of reuse."""

from semshare_agents.registry.guarding import DriftSample, Limit
from semshare_agents.registry.registry import NewBlock, NewTurn, Registry

__all__ = ["DriftSample", "Limit", "NewBlock", "NewTurn", "Registry"]
