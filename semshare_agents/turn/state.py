"""A turn between its stages."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch

from semshare_agents.model.generate import Sampler
from semshare_agents.model.run import Run
from semshare_agents.request.request import Request
from semshare_agents.store.loaded import Owner
from semshare_agents.timing.clock import Clock
from semshare_agents.values import Alignment, Ints, Plan, Reason, Report, Scope, TokenLogprob

NOWHERE = Scope(0, "", "", bytes(32))
"""The scope of a turn for which the registry could not be asked; nothing is stored under it."""


@dataclass(frozen=True)
class Asked:
    """A request as the model is asked it.

    Attributes:
        request: What was asked for, messages cleaned.
        prompt: Token ids, shape `(tokens,)`.
        sampler: Will draw the answer's tokens.
        room_tokens: How many tokens may be generated.
    """

    request: Request
    prompt: Ints
    sampler: Sampler
    room_tokens: int


@dataclass(frozen=True)
class Admitted:
    """A request as the monitor lets it through.

    Attributes:
        request: Narrowed where it has to be.
        note: Why, for the report; None where nothing changed.
        probed: What the monitor wants to know of it afterwards.
    """

    request: Request
    note: Reason | None = None
    probed: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Matched:
    """A prompt, and what of it is stored.

    Attributes:
        asked: What was asked.
        scope: Tenant and model.
        alignment: Where the KV could come from.
        admitted: The request as it was let through.
        why_cold: Why nothing can be reused, whatever is stored; None where something might.
    """

    asked: Asked
    scope: Scope
    alignment: Alignment
    admitted: Admitted
    why_cold: Reason | None = None

    @property
    def request(self) -> Request:
        """The request as it was let through."""
        return self.admitted.request

    @property
    def owner(self) -> Owner:
        """Who uses stored blocks: a turn that is not stored is no turn of its session."""
        return Owner(self.scope.tenant, (self.request.session or "") if self.request.store else "")


@dataclass(frozen=True)
class Filled:
    """A run's KV of the whole prompt.

    Attributes:
        matched: What was taken, less what could not be served.
        plan: What was computed.
        logits: The last row's, shape `(vocabulary,)`.
        misses: Blocks that the registry promised and the tiers could not serve.
        logprobs: How likely the prompt's tokens were, where that is asked for.
    """

    matched: Matched
    plan: Plan
    logits: torch.Tensor
    misses: int
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass
class Prefilled:
    """A prompt whose KV is complete, ready to be continued.

    Attributes:
        filled: How its KV came about.
        run: Holds the KV.
        report: What was reused.
        clock: Of the call.
    """

    filled: Filled
    run: Run
    report: Report
    clock: Clock = field(default_factory=Clock)
    begun: bool = False

    @property
    def asked(self) -> Asked:
        """What was asked."""
        return self.filled.matched.asked

    @property
    def request(self) -> Request:
        """What was asked for, as it was let through."""
        return self.filled.matched.request

    @property
    def prompt(self) -> Ints:
        """Token ids, shape `(tokens,)`."""
        return self.asked.prompt

    @property
    def scope(self) -> Scope:
        """Tenant and model."""
        return self.filled.matched.scope

    @property
    def owner(self) -> Owner:
        """Whose blocks the turn brings."""
        return self.filled.matched.owner

    @property
    def alignment(self) -> Alignment:
        """Where the KV could come from."""
        return self.filled.matched.alignment

    @property
    def plan(self) -> Plan:
        """What was computed."""
        return self.filled.plan

    @property
    def logits(self) -> torch.Tensor:
        """The last row's, shape `(vocabulary,)`."""
        return self.filled.logits

    def begins(self) -> None:
        """The answer's first piece is handed out now, or it ends without one: so long did the caller wait."""
        if not self.begun:
            self.begun = True
            stages, elapsed = self.clock.told()
            self.report = replace(self.report, ttft_seconds=elapsed, stages_seconds=stages)
