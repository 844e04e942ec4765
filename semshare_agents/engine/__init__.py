"""Who runs on the model, and when."""

from semshare_agents.engine.engine import Engine, Priority

__all__ = ["Engine", "Priority"]
