"""What a caller wants of a turn."""

from __future__ import annotations

from dataclasses import dataclass

from semshare_agents.request.output import FREE, ResponseSpec
from semshare_agents.values import FAST, Fidelity, Messages, Reuse, Sampling


@dataclass(frozen=True)
class Request:
    """What a caller wants.

    Attributes:
        messages: The prompt's messages.
        tenant: Whose memory may serve it.
        reuse: Loosest kind of reuse.
        sampling: How tokens are drawn.
        session: Session name; None for stateless calls.
        response: Tools, and what the answer is held to.
        store: Whether the turn is remembered.
        fidelity: How far the answer may drift from a cold run's.
        raw: Whether the text of the one message is the prompt as it is, without a chat template.
    """

    messages: Messages
    tenant: str
    reuse: Reuse
    sampling: Sampling
    session: str | None = None
    response: ResponseSpec = FREE
    store: bool = True
    fidelity: Fidelity = FAST
    raw: bool = False
