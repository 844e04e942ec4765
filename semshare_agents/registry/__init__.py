"""The SQL registry: tenants, sessions, turns, blocks, signatures and the log of reuse."""

from semshare_agents.registry.drift import DriftSample, Limit
from semshare_agents.registry.forgetting import Forgotten
from semshare_agents.registry.pinning import Pin, PinnedBlock
from semshare_agents.registry.registry import Registry
from semshare_agents.registry.writing import NewBlock, NewTurn

__all__ = ["DriftSample", "Forgotten", "Limit", "NewBlock", "NewTurn", "Pin", "PinnedBlock", "Registry"]
