"""Why a turn reused less than was asked for: a code to count and a sentence to read."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class ReasonCode(StrEnum):
    """What kept a turn from reusing more; the label `reason` of `semshare_fallbacks_total`."""

    MEMORY = "memory"
    """The database could not be used, so nothing was looked up."""
    GUARD = "guard"
    """Drift of earlier turns was over the budget; what is reused is narrowed, or widened again as a probe."""
    OFF = "off"
    """The caller wants no reuse."""
    NOTHING_STORED = "nothing-stored"
    """Nothing in the memory matches the prompt."""
    NOT_SIMILAR = "not-similar"
    """No stored turn says nearly enough what the prompt says."""
    NOTHING_LEFT = "nothing-left"
    """Too little is left unmatched for semantic reuse to be looked for."""
    MISSES = "misses"
    """Blocks that the registry promised could not be served."""
    COMPUTED_AGAIN = "computed-again"
    """The plan computes every token that has a match of the loosest kind asked for."""
    COLD_IS_FASTER = "cold-is-faster"
    """A full prefill is predicted to take less time."""
    FIDELITY = "fidelity"
    """The predicted drift is more than the fidelity asked for allows."""
    NEAR_TIE = "near-tie"
    """Drift could have decided which token a greedy answer begins with, so everything was computed."""
    WINDOW = "window"
    """Prompt and answer reach past the model's sliding window."""
    FACTS = "facts"
    """Facts or wording differ from what is stored."""
    MODEL = "model"
    """What the model's KV can be used for, or that the model changed meanwhile."""


@dataclass(frozen=True)
class Reason:
    """Why a turn ran cold or narrower than asked for.

    Attributes:
        code: What counts.
        text: A sentence for people.
        further: Codes of what else `text` tells, see `joined`.
    """

    code: ReasonCode
    text: str
    further: tuple[ReasonCode, ...] = ()

    @property
    def codes(self) -> tuple[ReasonCode, ...]:
        """The codes of all that `text` tells, the one that counts first."""
        return self.code, *self.further

    def __str__(self) -> str:
        return self.text


NOTHING_STORED = Reason(ReasonCode.NOTHING_STORED, "nothing stored matches this prompt")
REUSE_OFF = Reason(ReasonCode.OFF, "reuse is off")
MODEL_CHANGED = Reason(ReasonCode.MODEL, "the model's weights or adapters changed while the prompt was computed")


def not_served(blocks: int) -> Reason:
    """That blocks were promised and are not there."""
    return Reason(ReasonCode.MISSES, f"{blocks} stored blocks could not be served")


def joined(*reasons: Reason | None) -> Reason | None:
    """Several reasons as one, of which the first counts; None where there are none."""
    told = [reason for reason in reasons if reason is not None]
    if not told:
        return None
    code, *further = (code for reason in told for code in reason.codes)
    return Reason(code, "; ".join(reason.text for reason in told), tuple(further))
