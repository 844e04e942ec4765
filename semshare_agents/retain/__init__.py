"""Retention: which part of a prompt's KV an answer is decoded on."""

from semshare_agents.retain.select import POLICIES, Retention, kept_positions, layer_shares
from semshare_agents.retain.watch import TailWatch

__all__ = ["POLICIES", "Retention", "TailWatch", "kept_positions", "layer_shares"]
