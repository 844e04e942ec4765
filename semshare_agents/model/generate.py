"""Choosing tokens, turning them into text, and stopping."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from tokenizers.decoders import DecodeStream
from transformers import (
    LogitsProcessorList,
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
        if self._frequency_penalty and self._answered:
            tokens = torch.tensor(list(self._answered), device=logits.device)
            counts = torch.tensor(list(self._answered.values()), device=logits.device, dtype=torch.float32)
            logits = logits.float().index_add(0, tokens, counts, alpha=-self._frequency_penalty)
        if self._constraint is not None:
            logits = self._constraint.narrow(logits)
        token = self._drawn(logits)
        self._answered[token] += 1
        if self._constraint is not None:
            self._constraint.accept(token)
        return token

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


class _DecodedTail:
    """Detokenises a growing answer by a tokenizer's own `decode`, for those without a fast backend.

    Text is decoded together with the tokens before it, whose text is then taken away: a token alone may read otherwise.
    Bytes that are no whole letter yet are held back.
    """

    def __init__(self, tokenizer: Any):
        self._tokenizer = tokenizer
        self._tokens: list[int] = []
        self._context = self._read = 0

    def step(self, token: int) -> str:
        """Add a token; returns text that is complete."""
        self._tokens.append(token)
        before, now = self._text(self._tokens[self._context : self._read]), self._text(self._tokens[self._context :])
        if len(now) <= len(before) or now.endswith("\N{REPLACEMENT CHARACTER}"):
            return ""
        self._context, self._read = self._read, len(self._tokens)
        return now[len(before) :]

    def _text(self, tokens: list[int]) -> str:
        text: str = self._tokenizer.decode(tokens, skip_special_tokens=True)
        return text


def _detokeniser(tokenizer: Any) -> Callable[[int], str | None]:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return _DecodedTail(tokenizer).step
    stream = DecodeStream(skip_special_tokens=True)
    return lambda token: stream.step(backend, token)


class TextStream:
    """Detokenises a growing answer and holds back what may turn out to be a stop string.

    Args:
        tokenizer: A transformers tokenizer.
        stop: Stop strings, of any number of tokens.
        marks: Special tokens that are text all the same, by id.
    """

    def __init__(self, tokenizer: Any, stop: Iterable[str] = (), marks: Mapping[int, str] | None = None):
        self._stop = tuple(stop)
        self._marks = marks or {}
        self._decode = _detokeniser(tokenizer)
        self._pending = ""
        self.text = ""
        self.stopped = False

    def push(self, token: int) -> str:
        """Add a token; returns text that is certain to be part of the answer."""
        self._pending += self._decode(token) or ""
        self._pending += self._marks.get(token, "")
        cuts = [at for s in self._stop if (at := self._pending.find(s)) >= 0]
        if cuts:
            self.stopped = True
            self._pending = self._pending[: min(cuts)]
            return self.finish()
        return self._release(len(self._pending) - self._held())

    def finish(self) -> str:
        """The rest of the text, once no token follows."""
        return self._release(len(self._pending))

    def _release(self, count: int) -> str:
        piece, self._pending = self._pending[:count], self._pending[count:]
        self.text += piece
        return piece

    def _held(self) -> int:
        """Length of the longest end of the pending text that begins a stop string."""
        longest = 0
        for stop in self._stop:
            for size in range(min(len(stop) - 1, len(self._pending)), longest, -1):
                if self._pending.endswith(stop[:size]):
                    longest = size
                    break
        return longest
