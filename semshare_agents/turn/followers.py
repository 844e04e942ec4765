"""Who takes part in a turn besides its stages; what they do is their own affair."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Protocol

from semshare_agents.observe.observers import Observer, TurnSeen
from semshare_agents.request.request import Request
from semshare_agents.turn.decode import Answer
from semshare_agents.turn.state import Admitted, Prefilled
from semshare_agents.values import Generation, Scope


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

    def stored(self, prefilled: Prefilled, answer: Answer, turn_id: int, repairable: bool) -> None:
        """A turn was stored; `repairable` says whether approximate KV of it can be made exact."""
        if self.repairs is not None and repairable:
            self.repairs.add(prefilled.scope, turn_id, prefilled.request.session)
        if self.monitor is not None and answer.logits:
            self.monitor.add(prefilled, answer, turn_id)

    def tell(self, model: str, prefilled: Prefilled, generation: Generation) -> None:
        """Tell the observers of a finished turn.

        Args:
            model: What the model is called.
            prefilled: The turn.
            generation: Its answer.
        """
        seen = TurnSeen(model, prefilled.request, generation, prefilled.clock.began_at, time.time())
        for observer in self.observers:
            observer.turn(seen)
