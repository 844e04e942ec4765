"""A turn's life; `pipeline.py` has it in order."""

from semshare_agents.turn.pipeline import Pipeline

__all__ = ["Pipeline"]
