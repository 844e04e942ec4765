"""The stages' face up to version 0.1, kept for one version."""

from __future__ import annotations

import warnings
from typing import Any

from semshare_agents.turn.pipeline import Pipeline

PLACES = {
    "model": "model",
    "registry": "memory.registry",
    "tiers": "memory.tiers",
    "packing": "memory.spec.packing",
    "block_tokens": "memory.spec.block_tokens",
    "kv_fingerprint": "memory.spec.fingerprint",
    "scope": "memory.scope",
    "unchanged": "memory.unchanged",
    "cost": "planner.cost",
    "strategy": "planner.strategy",
    "plan_settings": "planner.settings",
    "calibration": "planner.calibration",
    "matcher": "planner.matcher",
    "similarity_threshold": "planner.similarity_threshold",
    "fact_guard": "planner.fact_guard",
    "retention": "decoding.retention",
    "retention_int8": "decoding.retention_int8",
    "steering": "output",
    "pool": "loader.runs.pool",
    "idle": "engine.idle",
    "prefill": "prefill",
    "generate": "generate",
}
"""Where things of the old face are now, from the pipeline on."""


class Turns:
    """What `llm.turns` was: everything that the stages need, to be read.

    Args:
        pipeline: Has it now.
    """

    def __init__(self, pipeline: Pipeline):
        warnings.warn(
            "llm.turns goes with the next version: read an adapter by llm.reader, or take its parts from llm.pipeline",
            DeprecationWarning,
            stacklevel=3,
        )
        self._pipeline = pipeline

    def __getattr__(self, name: str) -> Any:
        if name not in PLACES:
            raise AttributeError(f"{name} is not in llm.turns any more: see llm.pipeline")
        found: Any = self._pipeline
        for part in PLACES[name].split("."):
            found = getattr(found, part)
        return found
