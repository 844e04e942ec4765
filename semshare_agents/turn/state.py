"""A turn between its stages."""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from semshare_agents.model.generate import Sampler
from semshare_agents.model.run import RowRun, Run
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


@dataclass(eq=False)
class TurnUnderway:
    """A turn that has no answer yet.

    Attributes:
        matched: What is asked, and by whom.
        run: Gets its KV.
        exact_ahead: Length of the prefix whose KV will be exact once the prompt is computed.
        published: Length of the prefix that others find in the registry.
        turn_id: What it is registered as; None until it is.
        registrable: Whether what it has computed may be registered: no more once it is with its answer, nor where
            the model changed.
        over: Set once nothing more will be computed.
        ended_at: When its run was closed, by a clock that never goes back; None before.
        lock: Held while its KV is read out.
    """

    matched: Matched
    run: RowRun
    exact_ahead: int
    published: int
    turn_id: int | None = None
    registrable: bool = True
    over: asyncio.Event = field(default_factory=asyncio.Event)
    ended_at: float | None = None
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


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
        turn: What others see of it before it has its answer; None where it is not to be remembered.
    """

    filled: Filled
    run: Run
    report: Report
    clock: Clock = field(default_factory=Clock)
    turn: TurnUnderway | None = None
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

    @property
    def registered_as(self) -> int | None:
        """Its id, where others have found some of it already; else None."""
        return None if self.turn is None else self.turn.turn_id

    def settle(self) -> None:
        """It is registered with its answer."""
        if self.turn is not None:
            self.turn.registrable = False

    def alone(self) -> AbstractAsyncContextManager[Any]:
        """Entered while its KV is read out and registered."""
        return nullcontext() if self.turn is None else self.turn.lock

    def begins(self) -> None:
        """The answer's first piece is handed out now, or it ends without one: so long did the caller wait."""
        if not self.begun:
            self.begun = True
            stages, elapsed = self.clock.told()
            self.report = replace(self.report, ttft_seconds=elapsed, stages_seconds=stages)

    def drafted(self, drafted_tokens: int, accepted_tokens: int) -> None:
        """The answer has ended; so many of its tokens were drafted, and so many of these drawn."""
        self.report = replace(self.report, drafted_tokens=drafted_tokens, accepted_tokens=accepted_tokens)
