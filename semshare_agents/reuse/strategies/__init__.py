"""Strategies that choose which semantically matched rows are computed: one file each on the contract in `base`."""

from __future__ import annotations

from semshare_agents.errors import ConfigurationError
from semshare_agents.reuse.strategies.base import Candidates, Choice, SelectionStrategy
from semshare_agents.reuse.strategies.deviation import Deviation
from semshare_agents.reuse.strategies.question import Question
from semshare_agents.reuse.strategies.static import Static

STRATEGIES: dict[str, type[SelectionStrategy]] = {s.name: s for s in (Question, Static, Deviation)}


def make_strategy(name: str) -> SelectionStrategy:
    """A strategy by name.

    Raises:
        ConfigurationError: there is no such strategy.
    """
    try:
        return STRATEGIES[name]()
    except KeyError:
        raise ConfigurationError(f"unknown strategy {name!r}; known: {', '.join(STRATEGIES)}") from None


__all__ = [
    "STRATEGIES",
    "Candidates",
    "Choice",
    "Deviation",
    "Question",
    "SelectionStrategy",
    "Static",
    "make_strategy",
]
