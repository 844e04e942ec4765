"""An answer, token by token: draw, turn into text, see whether it ends."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from itertools import takewhile

import torch

from semshare_agents.model.generate import Sampler
from semshare_agents.model.likelihoods import Likelihoods
from semshare_agents.model.text import TextStream
from semshare_agents.values import TokenLogprob


@dataclass
class Answer:
    """An answer while it grows.

    Attributes:
        tokens: Generated token ids so far.
        text: Text so far, tool calls included, without what may be a stop string.
        finish_reason: `stop` or `length`, empty while it grows.
        stop_string: The stop string that ended it; empty for none.
        sampled_tokens: Of how many first tokens the logits are kept, for the drift monitor.
        logits: What those were drawn from, each float32 of shape `(vocabulary,)` in RAM.
        logprobs: How likely the tokens were, where that is asked for.
    """

    tokens: list[int] = field(default_factory=list)
    text: str = ""
    finish_reason: str = ""
    stop_string: str = ""
    sampled_tokens: int = 0
    logits: list[torch.Tensor] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)

    def told(self, since: int = 0) -> tuple[TokenLogprob, ...]:
        """How likely the tokens from the `since`-th on were, as far as their text is certain to be the answer's."""
        return tuple(takewhile(lambda found: found.start < len(self.text), self.logprobs[since:]))


@dataclass(frozen=True)
class Decoder:
    """Lets an answer grow. It draws; what is drawn from is computed elsewhere.

    Attributes:
        answer: What grows.
        sampler: Draws its tokens.
        text: Turns them into text.
        end_tokens: Tokens that end it.
        room_tokens: How many tokens it may have.
        likelihoods: Tells how likely a token is by its logits; None where nobody asks.
    """

    answer: Answer
    sampler: Sampler
    text: TextStream
    end_tokens: Collection[int]
    room_tokens: int
    likelihoods: Likelihoods | None = None

    def draw(self, logits: torch.Tensor) -> str:
        """Draw one token; returns text that became certain.

        Args:
            logits: What it is drawn from, shape `(vocabulary,)`.
        """
        answer = self.answer
        if len(answer.logits) < answer.sampled_tokens:
            answer.logits.append(logits.float().cpu())
        token = self.sampler.next(logits)
        answer.tokens.append(token)
        if self.likelihoods is not None and token not in self.end_tokens:
            answer.logprobs.append(self.likelihoods.of(logits, token, self.text.decoded))
        piece = "" if token in self.end_tokens else self.text.push(token)
        if token in self.end_tokens or self.text.stopped or self.sampler.complete:
            answer.finish_reason = "stop"
        elif len(answer.tokens) >= self.room_tokens:
            answer.finish_reason = "length"
        if answer.finish_reason:
            piece += self.text.finish()
        answer.text, answer.stop_string = self.text.text, self.text.stop_string
        return piece
