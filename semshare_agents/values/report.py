"""What a turn reused, how sure that is and what it cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from semshare_agents.values.reason import Reason, ReasonCode
from semshare_agents.values.reuse_map import Span, packed


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
        reason_codes: What `reason` tells, in codes to count; the first is the one that metrics count.
        drafted_tokens: Tokens that were drafted from earlier text while the answer was decoded.
        accepted_tokens: Of these, the ones that came out the same: they cost no step of their own.
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
    reason_codes: tuple[ReasonCode, ...] = ()
    drafted_tokens: int = 0
    accepted_tokens: int = 0

    @property
    def reason_code(self) -> str:
        """The code of `reason` that counts; empty without a reason."""
        return self.reason_codes[0] if self.reason_codes else ""

    def preceded_by(self, reason: Reason | None) -> Report:
        """The same with another reason, which counts before its own."""
        if reason is None:
            return self
        text = "; ".join(filter(None, (reason.text, self.reason)))
        return replace(self, reason=text, reason_codes=reason.codes + self.reason_codes)

    def as_dict(self) -> dict[str, Any]:
        """The report as plain JSON values, without its spans."""
        return {
            "class": self.reuse_class,
            "tokens": dict(self.tokens),
            "rows_share": self.rows_share,
            "donors": {str(turn): tokens for turn, tokens in self.donors.items()},
            "similarity": self.similarity,
            "exact_tokens": self.exact_tokens,
            "stages_seconds": dict(self.stages_seconds),
            "ttft_seconds": self.ttft_seconds,
            "predicted_cold_seconds": self.predicted_cold_seconds,
            "reason": self.reason,
            "reason_codes": [str(code) for code in self.reason_codes],
            "drift_kl": self.drift_kl,
            "misses": self.misses,
            "saved": None if self.saved is None else asdict(self.saved),
            "drafted_tokens": self.drafted_tokens,
            "accepted_tokens": self.accepted_tokens,
            "turn_id": self.turn_id,
        }

    def as_stored(self) -> dict[str, Any]:
        """The report as it is kept with its turn, which has the id: with its spans."""
        values = {**self.as_dict(), "spans": packed(self.spans)}
        del values["turn_id"]
        return values
