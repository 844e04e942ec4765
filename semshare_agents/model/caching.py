"""The name under which a model takes and gives back its cache."""

from __future__ import annotations

import inspect
from typing import Any

NAMES = ("cache", "past_key_values", "cache_params")
"""transformers 5.24 and newer; older ones and models with code of their own; their state space models."""


def cache_name(model: Any) -> str:
    """The argument of a model's forward that is its cache; its output has an attribute of the same name."""
    return next((name for name in NAMES if takes(model, name)), "past_key_values")


def takes(model: Any, argument: str) -> bool:
    """Whether a model's forward has an argument; that of PEFT's wrapper passes all on."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    return argument in inspect.signature(inner.forward).parameters
