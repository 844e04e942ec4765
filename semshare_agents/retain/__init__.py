"""Retention: which part of a prompt's KV an answer is decoded on."""

from semshare_agents.retain.select import POLICIES, Retention, kept_positions, layer_shares

__all__ = ["POLICIES", "Retention", "kept_positions", "layer_shares"]
