"""Who takes part in a turn besides its stages; what they do is their own affair."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from semshare_agents.observe.observers import Observer
from semshare_agents.request.request import Request
from semshare_agents.turn.decode import Answer
from semshare_agents.turn.state import Admitted, Prefilled
from semshare_agents.values import Scope


class Monitor(Protocol):
    """Holds turns to limits and measures a sample of them."""

    async def admit(self, scope: Scope, request: Request) -> Admitted:
        """A request within the limits of its tenant and session."""

    def sampled_tokens(self, prefilled: Prefilled) -> int:
        """Of how many of the answer's first tokens the logits are to be kept."""

    def add(self, prefilled: Prefilled, answer: Answer, turn_id: int) -> None:
        """A turn was stored whose logits were kept."""


class Repairs(Protocol):
    """Makes approximate turns exact."""

    def add(self, scope: Scope, turn_id: int, session: str | None) -> None:
        """A turn was stored some of whose KV is approximate."""


@dataclass(frozen=True)
class Followers:
    """Who follows turns.

    Attributes:
        monitor: Holds them to limits; None for nobody.
        repairs: Repairs them; None for nobody.
        observers: Told of every finished one.
    """

    monitor: Monitor | None = None
    repairs: Repairs | None = None
    observers: list[Observer] = field(default_factory=list)

    def sampled_tokens(self, prefilled: Prefilled) -> int:
        """Of how many of an answer's first tokens the logits are to be kept."""
        return 0 if self.monitor is None else self.monitor.sampled_tokens(prefilled)
