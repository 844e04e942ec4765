"""The reuse map: where the KV of every prompt token came from, as runs small enough to be stored with the turn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from semshare_agents.values.memory import Alignment, Kind

SEMANTIC_JUMP = 8
"""Reworded tokens whose donor places jump by at most so many tokens are one run; its donor place is about right."""


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


def spans_of(alignment: Alignment, kinds: NDArray[np.uint8]) -> tuple[Span, ...]:
    """Runs of one kind and donor that cover a prompt.

    Args:
        alignment: Where each token's KV could come from.
        kinds: `Kind` of each token as it was used, shape `(tokens,)`.
    """
    if not len(kinds):
        return ()
    used = kinds != Kind.COMPUTED
    turn_ids = np.asarray([d.turn_id for d in alignment.donors] or [0], np.int64)
    donor = np.where(used, turn_ids[np.where(used, alignment.donor, 0)], 0)
    offset = np.where(used, alignment.source - np.arange(len(kinds)), 0)
    slack = np.where(kinds[1:] == Kind.SEMANTIC, SEMANTIC_JUMP, 0)
    cut = (np.diff(kinds.astype(np.int16)) != 0) | (np.diff(donor) != 0) | (np.abs(np.diff(offset)) > slack)
    edges = [0, *(np.flatnonzero(cut) + 1).tolist(), len(kinds)]
    return tuple(
        Span(
            start=a,
            length=b - a,
            kind=Kind(int(kinds[a])),
            donor_turn=int(donor[a]) if used[a] else None,
            donor_start=int(alignment.source[a]) if used[a] else None,
            distance=round(float(alignment.distance[a:b].mean()), 3) if kinds[a] == Kind.SEMANTIC else 0.0,
        )
        for a, b in pairwise(edges)
    )


def packed(spans: Sequence[Span]) -> list[list[float]]:
    """Spans as JSON: `[length, kind]`, then donor turn and place, then distance; starts follow from the lengths."""
    rows: list[list[float]] = []
    for span in spans:
        row: list[float] = [span.length, int(span.kind)]
        if span.donor_turn is not None and span.donor_start is not None:
            row += [span.donor_turn, span.donor_start]
            row += [span.distance] if span.distance else []
        rows.append(row)
    return rows


def unpacked(rows: Sequence[Sequence[float]]) -> tuple[Span, ...]:
    """The spans that `packed` made rows of."""
    spans, start = [], 0
    for row in rows:
        length, kind = int(row[0]), Kind(int(row[1]))
        donor = (int(row[2]), int(row[3])) if len(row) > 3 else (None, None)
        spans.append(Span(start, length, kind, donor[0], donor[1], float(row[4]) if len(row) > 4 else 0.0))
        start += length
    return tuple(spans)
