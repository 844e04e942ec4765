"""The frozen values that the stages of a turn hand on."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from itertools import pairwise
from numbers import Integral, Real
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from semshare_agents.errors import ConfigurationError

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]


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


class Kind(IntEnum):
    """Where the KV of one prompt token comes from, from strictest to loosest."""

    COMPUTED = 0
    EXACT = 1
    MOVED = 2
    SEMANTIC = 3


@dataclass(frozen=True)
class Scope:
    """What a look-up may never leave: one tenant's KV of one model.

    Attributes:
        id: The scope's row in the registry.
        tenant: Tenant name.
        fingerprint: Fingerprint of the model (`semshare_agents.model.fingerprint`).
        seed: Key of the scope's names, so that names of different scopes never agree.
        reads: Ids of all scopes that look-ups may find, this one among them; more than one in a pool.
        forgets: The newest act of forgetting when the scope was asked for.
    """

    id: int
    tenant: str
    fingerprint: str
    seed: bytes
    reads: tuple[int, ...] = ()
    forgets: int = 0


@dataclass(frozen=True)
class BlockRef:
    """A stored block, as part of a donor.

    Attributes:
        key: Name of the KV in the store; never used twice.
        start: Position of its first token in the donor.
        length: Tokens of it that the donor uses.
        stored_tokens: Tokens it holds; more than `length` where a longer block took the place of a short one.
    """

    key: str
    start: int
    length: int
    stored_tokens: int


@dataclass(frozen=True)
class Donor:
    """A past turn whose KV may serve a prompt.

    Attributes:
        turn_id: The turn in the registry.
        tokens: Token ids whose KV is stored, shape `(tokens,)`.
        blocks: Stored blocks, ascending; gaps are evicted blocks.
        exact_tokens: Length of the prefix whose KV equals a cold run's.
        depth: Approximate turns between this one and a cold run.
        similarity: Similarity to the prompt; 1.0 for donors found by equal text.
    """

    turn_id: int
    tokens: Ints
    blocks: tuple[BlockRef, ...]
    exact_tokens: int
    depth: int = 0
    similarity: float = 1.0

    def stored(self) -> NDArray[np.bool_]:
        """Which tokens still have stored KV, shape `(tokens,)`."""
        mask = np.zeros(len(self.tokens), dtype=np.bool_)
        for block in self.blocks:
            mask[block.start : block.start + block.length] = True
        return mask


@dataclass(frozen=True)
class Alignment:
    """For every prompt token: kind, donor and source position.

    Attributes:
        kind: `Kind` of each token, shape `(tokens,)`, uint8.
        donor: Index into `donors`, -1 where there is none, shape `(tokens,)`.
        source: Position in the donor, -1 where there is none, shape `(tokens,)`.
        distance: 0 for equal tokens; for semantic matches in (0, 1], larger is worse, shape `(tokens,)`.
        donors: The donors.
        similarity: Similarity of the semantic donor, 0.0 without one.
        doubtful: Matched positions whose KV may know another fact than the prompt; always computed, ascending.
        refused: Why the loosest matches asked for were not found, given up or lost; empty otherwise.
        asked: What each token's passage has in common with the question, shape `(tokens,)`; empty where nobody looked.
    """

    kind: NDArray[np.uint8]
    donor: Ints
    source: Ints
    distance: Floats
    donors: tuple[Donor, ...] = ()
    similarity: float = 0.0
    doubtful: Ints = field(default_factory=lambda: np.zeros(0, np.int64))
    refused: str = ""
    asked: Floats = field(default_factory=lambda: np.zeros(0, np.float32))

    @classmethod
    def empty(cls, tokens: int) -> Alignment:
        """An alignment in which every token is to be computed."""
        return cls(
            np.zeros(tokens, np.uint8),
            np.full(tokens, -1, np.int64),
            np.full(tokens, -1, np.int64),
            np.zeros(tokens, np.float32),
        )

    def __len__(self) -> int:
        return len(self.kind)

    def runs(self) -> list[tuple[int, int]]:
        """Maximal `(start, end)` ranges of one kind other than computed, one donor and one offset."""
        if not len(self):
            return []
        delta = np.where(self.kind == Kind.COMPUTED, 0, self.source - np.arange(len(self)))
        cut = (np.diff(self.kind) != 0) | (np.diff(self.donor) != 0) | (np.diff(delta) != 0)
        edges = np.concatenate(([0], np.flatnonzero(cut) + 1, [len(self)]))
        return [(int(a), int(b)) for a, b in pairwise(edges) if self.kind[a] != Kind.COMPUTED]


@dataclass(frozen=True)
class Look:
    """Rows among which the attention of the prompt's end chooses those that are computed besides.

    Attributes:
        candidates: Rows, ascending, shape `(candidates,)`.
        weight: Factor of the attention that each gets, shape `(candidates,)`.
        rows: How many are computed.
        late: Whether they are computed by the first decoding steps instead of before the first token.
    """

    candidates: Ints
    weight: Floats
    rows: int
    late: bool = False


@dataclass(frozen=True)
class Plan:
    """Which rows of the prompt are computed.

    Attributes:
        rows: Rows computed from the first layer on, ascending, shape `(rows,)`; always holds the last one.
        cold: Whether everything is computed and nothing loaded.
        reason: Why the plan is cold or narrower than asked for; empty otherwise.
        predicted_seconds: Predicted time of load, move and compute.
        predicted_cold_seconds: Predicted time of a full prefill.
        layer_shares: Shares of the semantic rows kept per layer; empty when all layers compute `rows`.
        check_layer: Layer at which deviation is measured; -1 for none.
        required: Rows computed in every layer; equals `rows` for a static plan.
        looks: What is computed besides, as the prompt's end attends to it.
        hurried: Whether the answer's first tokens carry all that is left, until the turn is exact.
        spread_logits: By how much drift is predicted to move one logit against another; 0 where near ties may stand.
        drift_kl: Mean KL to a cold run that the turn is predicted to keep, in nats.
    """

    rows: Ints
    cold: bool
    reason: str = ""
    predicted_seconds: float = 0.0
    predicted_cold_seconds: float = 0.0
    layer_shares: tuple[float, ...] = ()
    check_layer: int = -1
    required: Ints = field(default_factory=lambda: np.zeros(0, np.int64))
    looks: tuple[Look, ...] = ()
    hurried: bool = False
    spread_logits: float = 0.0
    drift_kl: float = 0.0


@dataclass(frozen=True)
class Usage:
    """Token counts of a turn.

    Attributes:
        prompt_tokens: Tokens of the prompt.
        completion_tokens: Tokens generated, the end token included.
        cached_tokens: Prompt tokens whose KV was reused exactly.
    """

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int

    @property
    def total_tokens(self) -> int:
        """Prompt and completion together."""
        return self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True)
class Span:
    """A run of prompt tokens of one kind and donor.

    Attributes:
        start: Its first token.
        length: Tokens.
        kind: How they were used: rows that were computed again count as computed.
        donor_turn: Turn whose KV it is; None for computed tokens.
        donor_start: Position of its first token there.
        distance: Mean distance of semantically matched tokens; 0.0 for equal ones.
    """

    start: int
    length: int
    kind: Kind
    donor_turn: int | None = None
    donor_start: int | None = None
    distance: float = 0.0


@dataclass(frozen=True)
class Saved:
    """What reuse saved of the time to the first token, net of what it cost, by measured full prefills of like length.

    Attributes:
        seconds: Negative where the turn would have been faster without a memory.
        low: By the fastest of those prefills.
        high: By the slowest.
        runs: How many there are.
    """

    seconds: float
    low: float
    high: float
    runs: int


@dataclass(frozen=True)
class Report:
    """What a turn reused, how sure that is and what it cost.

    Attributes:
        reuse_class: `cold`, `exact`, `moved` or `semantic`: the loosest kind used.
        tokens: Prompt tokens by kind: `computed`, `exact`, `moved`, `semantic`; they sum to the prompt.
        rows_share: Computed row-layers over all row-layers.
        donors: Tokens taken from each donor turn.
        similarity: Similarity of the semantic donor, 0.0 without one.
        exact_tokens: Length of the prompt's prefix whose KV equals a cold run's, up to what passes of other shapes
            round otherwise: nothing to speak of in float32, near ties of greedy answers in bfloat16 and float16.
        stages_seconds: Seconds of each stage up to the first piece of the answer; `wait` is for other turns.
        ttft_seconds: From the call to the first piece that was handed out, text or part of a tool call; of an answer
            that has none, to its end.
        predicted_cold_seconds: What a full prefill was predicted to take when the turn was planned.
        reason: Why the turn ran cold or narrower than asked for; empty otherwise.
        drift_kl: Mean KL to a cold run that the turn was predicted to keep, in nats; 0.0 for exact and cold turns.
        misses: Blocks that the registry promised and the store could not serve.
        turn_id: The stored turn; `None` until it is stored, or where storing is off.
        spans: The reuse map: runs that cover the prompt.
        saved: What reuse saved; None where no full prefill of like length was measured.
    """

    reuse_class: str
    tokens: Mapping[str, int]
    rows_share: float
    donors: Mapping[int, int]
    similarity: float
    exact_tokens: int
    stages_seconds: Mapping[str, float]
    ttft_seconds: float
    predicted_cold_seconds: float
    reason: str
    drift_kl: float = 0.0
    misses: int = 0
    turn_id: int | None = None
    spans: tuple[Span, ...] = ()
    saved: Saved | None = None


@dataclass(frozen=True)
class ToolCall:
    """A model's call of a tool.

    Attributes:
        id: Tells the calls of a conversation apart; the tool's message names it.
        name: The tool.
        arguments: JSON text; a part of it where the call is not whole.
        whole: Whether the call is complete; one that the answer's end cut off must not be run.
    """

    id: str
    name: str
    arguments: str
    whole: bool = True


@dataclass(frozen=True)
class CallPart:
    """What is new of a tool call while it is streamed: first its id and name, then its arguments.

    Attributes:
        index: Which of the answer's calls.
        id: Its id, empty but for the first part.
        name: The tool, empty but for the first part.
        arguments: What its JSON text goes on with.
    """

    index: int
    id: str = ""
    name: str = ""
    arguments: str = ""


@dataclass(frozen=True)
class Generation:
    """An answer.

    Attributes:
        text: The answer, without stop strings, special tokens and tool calls.
        tokens: Generated token ids, the end token included.
        finish_reason: `stop` (end token or stop string), `tool_calls` (the same, after calls) or `length`.
        usage: Token counts.
        report: What was reused.
        tool_calls: The tools that the model calls.
        raw: The answer as it was written, tool calls included; a history that holds it is reused exactly.
    """

    text: str
    tokens: tuple[int, ...]
    finish_reason: str
    usage: Usage
    report: Report
    tool_calls: tuple[ToolCall, ...] = ()
    raw: str = ""


@dataclass(frozen=True)
class Piece:
    """A part of a streamed answer: text, tool calls or both; the last one has the whole `generation`."""

    text: str
    generation: Generation | None = None
    tool_calls: tuple[CallPart, ...] = ()


@dataclass(frozen=True)
class Sampling:
    """Sampling parameters; the defaults are greedy.

    Attributes:
        max_new_tokens: Longest answer.
        temperature: 0 is greedy.
        top_k: 0 is off.
        top_p: 1.0 is off.
        repetition_penalty: 1.0 is off.
        frequency_penalty: Taken off a token's logit for each time that it stands in the answer; 0.0 is off.
        seed: Seed of the sampler; `None` draws one.
        stop: Strings that end the answer; they are not part of it.
    """

    max_new_tokens: int = 512
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    seed: int | None = None
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        whole, real = _is_whole, _is_real
        checks = (
            (whole(self.max_new_tokens) and self.max_new_tokens >= 1, "max_new_tokens must be a number, at least 1"),
            (real(self.temperature) and self.temperature >= 0, "temperature must be a number, not negative"),
            (whole(self.top_k) and self.top_k >= 0, "top_k must be a whole number, not negative"),
            (real(self.top_p) and 0 < self.top_p <= 1, "top_p must be in (0, 1]"),
            (real(self.repetition_penalty) and self.repetition_penalty > 0, "repetition_penalty must be positive"),
            (real(self.frequency_penalty) and abs(self.frequency_penalty) <= 2, "frequency_penalty must be in [-2, 2]"),
            (
                self.seed is None or (whole(self.seed) and -(2**63) <= self.seed < 2**64),
                "seed must be a number of 64 bits",
            ),
            (all(isinstance(s, str) and s for s in self.stop), "stop strings must be non-empty strings"),
        )
        for ok, problem in checks:
            if not ok:
                raise ConfigurationError(problem)


def _is_whole(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _is_real(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


Messages = Sequence[Mapping[str, Any]]
