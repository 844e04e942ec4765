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
        prompt_ids: The prompt's token ids, where the caller has made them; the one message is their text.
        choices: How many answers are drawn, one after the other, from one prefill.
        logprobs: Of each token of an answer the log probability, and so many of the likeliest instead; None for none.
        prompt_logprobs: The same of the prompt's tokens; they are computed without reuse.
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
    prompt_ids: tuple[int, ...] | None = None
    choices: int = 1
    logprobs: int | None = None
    prompt_logprobs: int | None = None
