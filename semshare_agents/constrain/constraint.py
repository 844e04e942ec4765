"""Holding drawn tokens to a grammar, with llguidance (extra `structured`)."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from semshare_agents.errors import ConfigurationError, InvalidSchemaError

if TYPE_CHECKING:
    import torch
    from llguidance import LLMatcher, LLTokenizer

KEPT_GRAMMARS = 64


def installed() -> bool:
    """Whether constrained decoding can be had."""
    try:
        import llguidance  # noqa: F401
    except ImportError:
        return False
    return True


class Constraint(Protocol):
    """Which tokens one answer may go on with; it belongs to one answer and one thread at a time."""

    @property
    def complete(self) -> bool:
        """Whether nothing can follow but the end."""
        ...

    def narrow(self, logits: torch.Tensor) -> torch.Tensor:
        """Logits `(vocabulary,)` with those of forbidden tokens at minus infinity.

        Raises:
            InvalidSchemaError: the library gives up on the grammar.
        """
        ...

    def accept(self, token: int) -> None:
        """Go on by a token that was drawn from narrowed logits.

        Raises:
            InvalidSchemaError: the library gives up on the grammar.
        """
        ...

    def possible(self, tokens: Sequence[int]) -> int:
        """How many of the first of these tokens may follow one another from here, as far as that is known."""
        ...


class Grammatical:
    """Holds an answer to a grammar from here on; see `Constraint`.

    Args:
        matcher: A fresh matcher of the grammar.
    """

    def __init__(self, matcher: LLMatcher):
        self._matcher = matcher

    def narrow(self, logits: torch.Tensor) -> torch.Tensor:
        """See `Constraint.narrow`."""
        # Whoever checks options alone, as a fake adapter does, needs no torch.
        import torch

        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        allowed = np.unpackbits(bits, bitorder="little")[: len(logits)].astype(np.bool_)
        self._check()
        # A vocabulary may be padded beyond the tokenizer's tokens.
        padded = np.pad(allowed, (0, len(logits) - len(allowed)))
        return logits.masked_fill(~torch.as_tensor(padded, device=logits.device), -torch.inf)

    def accept(self, token: int) -> None:
        """See `Constraint.accept`."""
        self._matcher.consume_token(token)
        self._check()

    def possible(self, tokens: Sequence[int]) -> int:
        """See `Constraint.possible`."""
        # A token beyond the tokenizer's, which a padded vocabulary may have drawn, leaves the matcher in error.
        return int(self._matcher.deep_copy().validate_tokens(list(tokens)))

    def began(self, tokens: Sequence[int]) -> bool:
        """Whether the grammar allows a beginning, by which it then goes on."""
        return int(self._matcher.try_consume_tokens(list(tokens))) == len(tokens)

    @property
    def complete(self) -> bool:
        """See `Constraint.complete`."""
        return bool(self._matcher.is_stopped())

    def _check(self) -> None:
        if self._matcher.is_error():
            raise InvalidSchemaError(f"an answer cannot be held to this schema: {_first(self._matcher.get_error())}")


class Constrainer:
    """Makes constraints for a tokenizer. Compiled grammars are kept; every method may be called from any thread.

    Args:
        tokenizer: A transformers tokenizer with a fast backend.
        ends: Token ids that end an answer.
    """

    def __init__(self, tokenizer: Any, ends: Iterable[int]):
        self._tokenizer = tokenizer
        self._ends = sorted(ends)
        self._made: LLTokenizer | None = None
        self._compiled: OrderedDict[str, LLMatcher] = OrderedDict()
        self._lock = threading.Lock()

    def constraint(self, grammar: str) -> Grammatical:
        """A fresh constraint. The first one of a large vocabulary takes a second, one of a new grammar milliseconds.

        Raises:
            ConfigurationError: llguidance is not installed.
            InvalidSchemaError: the grammar's schemas are malformed or not supported.
        """
        with self._lock:
            matcher = self._compiled.get(grammar) or self._compile(grammar)
            self._compiled[grammar] = matcher
            self._compiled.move_to_end(grammar)
            if len(self._compiled) > KEPT_GRAMMARS:
                self._compiled.popitem(last=False)
            return Grammatical(matcher.deep_copy())

    def _compile(self, grammar: str) -> LLMatcher:
        try:
            from llguidance import LLMatcher, LLTokenizer
        except ImportError as e:
            raise ConfigurationError(
                "JSON schemas and forced tool calls need llguidance: pip install 'semshare-agents[structured]'"
            ) from e
        if self._made is None:
            backend = getattr(self._tokenizer, "backend_tokenizer", None)
            if backend is None:
                raise ConfigurationError("JSON schemas and forced tool calls need a tokenizer with a fast backend")
            self._made = LLTokenizer(backend.to_str(), eos_token=self._ends)
        matcher = LLMatcher(self._made, grammar, log_level=0)
        if matcher.is_error():
            raise InvalidSchemaError(f"a JSON schema cannot be used: {_first(matcher.get_error())}")
        return matcher


def _first(message: str) -> str:
    return message.partition("\n")[0]
