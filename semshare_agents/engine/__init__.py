"""Who runs on the model, and when."""

from semshare_agents.engine.engine import Engine
from semshare_agents.engine.work import Priority, Within

__all__ = ["Engine", "Priority", "Within"]
