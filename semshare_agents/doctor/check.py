"""What a check found, how it went and what to do."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class State(StrEnum):
    """How a check went."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


@dataclass(frozen=True)
class Check:
    """What one check found.

    Attributes:
        name: What was looked at.
        state: How it went.
        found: What was found.
        advice: What to do; empty where all is well.
    """

    name: str
    state: State
    found: str
    advice: str = ""


def worst(checks: list[Check]) -> State:
    """The worst state of all."""
    order = list(State)
    return max((check.state for check in checks), key=order.index, default=State.OK)
