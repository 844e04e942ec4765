"""Choosing tokens."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

import torch
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from semshare_agents.constrain.constraint import Constraint
from semshare_agents.values import Ints, Sampling

COLDEST = 1e-6
"""Below this a temperature draws what greedy decoding does, and divided logits would overflow."""


class Sampler:
    """Draws the next token from logits, with transformers' processors and warpers.

    Args:
        sampling: The parameters.
        prompt: The prompt's token ids, for penalties, shape `(tokens,)`.
        device: Where logits live.
        constraint: What the answer is held to; None for nothing.
    """

    def __init__(self, sampling: Sampling, prompt: Ints, device: torch.device, constraint: Constraint | None = None):
        self._constraint = constraint
        self._frequency_penalty = sampling.frequency_penalty
        self._presence_penalty = sampling.presence_penalty
        self._bias = sampling.logit_bias
        self._answered: Counter[int] = Counter()
        self._greedy = sampling.temperature < COLDEST
        self._seen = torch.as_tensor(prompt, device=device)[None]
        self._generator = torch.Generator(device=device)
        if sampling.seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(sampling.seed)
        processors = LogitsProcessorList()
        if sampling.repetition_penalty != 1.0:
            processors.append(RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty))
        if not self._greedy:
            processors.append(TemperatureLogitsWarper(sampling.temperature))
            if sampling.top_k:
                processors.append(TopKLogitsWarper(sampling.top_k))
            if sampling.top_p < 1.0:
                processors.append(TopPLogitsWarper(sampling.top_p))
            if sampling.min_p:
                processors.append(MinPLogitsWarper(sampling.min_p))
        self._processors = processors

    @property
    def complete(self) -> bool:
        """Whether the answer is all that it may be."""
        return self._constraint is not None and self._constraint.complete

    @torch.inference_mode()
    def next(self, logits: torch.Tensor) -> int:
        """The next token from logits of shape `(vocabulary,)`.

        Raises:
            InvalidSchemaError: the answer cannot be held to its constraint.
        """
        token = self._drawn(self._allowed(logits))
        self._answered[token] += 1
        if self._constraint is not None:
            self._constraint.accept(token)
        return token

    @torch.inference_mode()
    def lead(self, logits: torch.Tensor) -> float:
        """By how much the likeliest token leads the next one as this call compares them; infinite where it samples.

        Args:
            logits: Those that `next` would draw from, shape `(vocabulary,)`; nothing is drawn.

        Raises:
            InvalidSchemaError: the answer cannot be held to its constraint.
        """
        if not self._greedy:
            return math.inf
        scores = self._processors(self._seen, self._allowed(logits)[None].float())
        first, second = scores[0].topk(2).values.tolist()
        return math.inf if second == -math.inf else float(first - second)

    def possible(self, tokens: Sequence[int]) -> int:
        """How many of the first of these tokens could be drawn one after another, by the constraint."""
        return len(tokens) if self._constraint is None else self._constraint.possible(tokens)

    def _allowed(self, logits: torch.Tensor) -> torch.Tensor:
        if (self._frequency_penalty or self._presence_penalty) and self._answered:
            counts = self._answered.items()
            penalties = {t: -self._presence_penalty - count * self._frequency_penalty for t, count in counts}
            logits = _added(logits, penalties)
        if self._bias:
            logits = _added(logits, {token: bias for token, bias in self._bias if token < len(logits)})
        return logits if self._constraint is None else self._constraint.narrow(logits)

    def _drawn(self, logits: torch.Tensor) -> int:
        if self._greedy and not self._processors:
            return int(logits.argmax())
        scores = self._processors(self._seen, logits[None].float())
        if self._greedy:
            token = scores.argmax(-1, keepdim=True)
        else:
            token = torch.multinomial(scores.softmax(-1), 1, generator=self._generator)
        self._seen = torch.cat([self._seen, token], dim=1)
        return int(token)


def _added(logits: torch.Tensor, biases: Mapping[int, float]) -> torch.Tensor:
    """Logits `(vocabulary,)` with what is added to those of single tokens."""
    tokens = torch.tensor(list(biases), device=logits.device, dtype=torch.long)
    values = torch.tensor(list(biases.values()), device=logits.device, dtype=torch.float32)
    return logits.float().index_add(0, tokens, values)
