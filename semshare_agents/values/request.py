"""What is asked for: how loose reuse may be, how far an answer may drift, how it is sampled."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from numbers import Integral, Real
from typing import Any, ClassVar

from semshare_agents.errors import ConfigurationError


class Reuse(StrEnum):
    """How loose reuse may be; each word includes the ones before it."""

    OFF = "off"
    EXACT = "exact"
    MOVED = "moved"
    SEMANTIC = "semantic"

    @classmethod
    def parse(cls, value: object) -> Reuse:
        """The member named by `value`.

        Raises:
            ConfigurationError: `value` is none of the words.
        """
        try:
            return cls(str(value))
        except ValueError:
            raise ConfigurationError(f"reuse must be one of {', '.join(cls)}; got {value!r}") from None

    def allows(self, other: Reuse) -> bool:
        """Whether this word includes `other`."""
        words = list(Reuse)
        return words.index(self) >= words.index(other)


@dataclass(frozen=True)
class Fidelity:
    """How far a turn's answer may drift from a cold run's.

    Attributes:
        word: `auto`, `strict`, `balanced`, `fast`, or empty for a target in numbers.
        target_kl: Mean KL to the cold run that the plan has to keep, in nats; None for no target.
    """

    word: str
    target_kl: float | None = None

    TARGETS: ClassVar[Mapping[str, float | None]] = {"auto": None, "strict": 0.02, "balanced": 0.1, "fast": None}
    MOVED_KL: ClassVar[float] = 0.05
    """What `auto` keeps where no semantic match is used: moved text is the default and nobody asked for its drift."""

    @classmethod
    def parse(cls, value: object) -> Fidelity:
        """The fidelity that a word or a positive number names.

        Raises:
            ConfigurationError: `value` is neither.
        """
        if isinstance(value, Fidelity):
            return value
        if isinstance(value, str) and value in cls.TARGETS:
            return cls(value, cls.TARGETS[value])
        try:
            target = float(value)  # type: ignore[arg-type]
        except (TypeError, ValueError):
            target = math.nan
        if not 0 < target < math.inf:
            raise ConfigurationError(
                f"fidelity must be one of {', '.join(cls.TARGETS)} or a positive mean KL in nats; got {value!r}"
            )
        return cls("", target)

    def target_of(self, semantic: bool) -> float | None:
        """The mean KL that a turn has to keep, in nats; None for no target.

        Args:
            semantic: Whether the turn has semantic matches, which a caller has to ask for.
        """
        return self.MOVED_KL if self.word == "auto" and not semantic else self.target_kl

    @property
    def like(self) -> str:
        """The word whose protection of facts goes with it."""
        if self.word == "auto":
            return "fast"
        if self.word or self.target_kl is None:
            return self.word
        balanced = self.TARGETS["balanced"]
        assert balanced is not None
        return "strict" if self.target_kl < balanced else "balanced"

    def __str__(self) -> str:
        return self.word or f"a mean KL of {self.target_kl:g}"


AUTO = Fidelity("auto")
"""A ceiling for what nobody asked for: moved text. Semantic matches have no target."""


FAST = Fidelity("fast")
"""No target: speed first."""


@dataclass(frozen=True)
class Sampling:
    """Sampling parameters; the defaults are greedy.

    Attributes:
        max_new_tokens: Longest answer; None for what the model's context has room for.
        temperature: 0 is greedy.
        top_k: 0 is off.
        top_p: 1.0 is off.
        min_p: Least share of the likeliest token's probability; 0.0 is off.
        repetition_penalty: 1.0 is off.
        frequency_penalty: Taken off a token's logit for each time that it stands in the answer; 0.0 is off.
        presence_penalty: Taken off a token's logit once it stands in the answer; 0.0 is off.
        logit_bias: Pairs of a token id and what is added to its logit.
        seed: Seed of the sampler; `None` draws one.
        stop: Strings that end the answer; they are not part of it.
    """

    max_new_tokens: int | None = 512
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    seed: int | None = None
    stop: tuple[str, ...] = ()

    TYPICAL_TOKENS: ClassVar[int] = 512
    """Length of an answer of which nobody says how long it may be."""

    def __post_init__(self) -> None:
        whole, real = _is_whole, _is_real
        checks = (
            (
                self.max_new_tokens is None or (whole(self.max_new_tokens) and self.max_new_tokens >= 1),
                "max_new_tokens must be a number, at least 1",
            ),
            (real(self.temperature) and self.temperature >= 0, "temperature must be a number, not negative"),
            (whole(self.top_k) and self.top_k >= 0, "top_k must be a whole number, not negative"),
            (real(self.top_p) and 0 < self.top_p <= 1, "top_p must be in (0, 1]"),
            (real(self.min_p) and 0 <= self.min_p <= 1, "min_p must be in [0, 1]"),
            (real(self.repetition_penalty) and self.repetition_penalty > 0, "repetition_penalty must be positive"),
            (real(self.frequency_penalty) and abs(self.frequency_penalty) <= 2, "frequency_penalty must be in [-2, 2]"),
            (real(self.presence_penalty) and abs(self.presence_penalty) <= 2, "presence_penalty must be in [-2, 2]"),
            (
                all(whole(token) and token >= 0 and real(bias) for token, bias in self.logit_bias),
                "logit_bias must give numbers by token ids",
            ),
            (
                self.seed is None or (whole(self.seed) and -(2**63) <= self.seed < 2**64),
                "seed must be a number of 64 bits",
            ),
            (all(isinstance(s, str) and s for s in self.stop), "stop strings must be non-empty strings"),
        )
        for ok, problem in checks:
            if not ok:
                raise ConfigurationError(problem)

    @property
    def likely_tokens(self) -> int:
        """How long an answer is taken to be before it is there."""
        return self.TYPICAL_TOKENS if self.max_new_tokens is None else self.max_new_tokens


def _is_whole(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _is_real(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


Messages = Sequence[Mapping[str, Any]]
