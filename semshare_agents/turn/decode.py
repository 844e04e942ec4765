"""An answer, token by token: draw, turn into text, see whether it ends."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from itertools import takewhile

import torch

from semshare_agents.drafts import Drafts
from semshare_agents.model.generate import Sampler
from semshare_agents.model.likelihoods import Likelihoods
from semshare_agents.model.run import Run
from semshare_agents.model.text import TextStream
from semshare_agents.retain import Retention
from semshare_agents.reuse.cost import CostModel
from semshare_agents.reuse.rate import RepairRate
from semshare_agents.values import TokenLogprob


@dataclass(frozen=True)
class Decoding:
    """How answers are decoded.

    Attributes:
        repair: How much repair a step carries.
        retention: What an answer is decoded on; None for all of its prompt's KV.
        retention_int8: Hold that in 8 bits.
        drafts: Where drafts of what follows come from; None for no drafts.
    """

    repair: RepairRate
    retention: Retention | None = None
    retention_int8: bool = False
    drafts: Drafts | None = None

    def beside(self, run: Run, cost: CostModel | None) -> int:
        """Rows to repair that a step carries for each of its tokens.

        Args:
            run: The answer's.
            cost: What rows and steps take; None where it is not known.
        """
        rows = run.by_rows
        return 0 if rows is None else self.repair.beside_a_step(rows.length, rows.exact, rows.semantic, cost)


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
        drafted_tokens: Tokens that steps carried as drafts.
        accepted_tokens: Of these, the ones that were drawn.
        logprobs: How likely the tokens were, where that is asked for.
    """

    tokens: list[int] = field(default_factory=list)
    text: str = ""
    finish_reason: str = ""
    stop_string: str = ""
    sampled_tokens: int = 0
    logits: list[torch.Tensor] = field(default_factory=list)
    drafted_tokens: int = 0
    accepted_tokens: int = 0
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
