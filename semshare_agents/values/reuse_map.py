"""Where each token of a prompt came from."""

from __future__ import annotations

from dataclasses import dataclass

from semshare_agents.values.memory import Kind


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
