"""Retention: which part of a prompt's KV an answer is decoded on."""

from semshare_agents.retain.observer import TailObserver
from semshare_agents.retain.select import POLICIES, Retention, layer_shares, retained_positions

__all__ = ["POLICIES", "Retention", "TailObserver", "layer_shares", "retained_positions"]
