"""The reuse map: where the KV of every prompt token came from, as runs small enough to be stored with the turn."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semshare_agents.values import Alignment, Kind, Span

SEMANTIC_JUMP = 8
"""Reworded tokens whose donor places jump by at most so many tokens are one run; its donor place is about right."""
NAMES = {kind: kind.name.lower() for kind in Kind}


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


@dataclass(frozen=True)
class Run:
    """A span with the texts of its tokens.

    Attributes:
        span: Where it is and where it came from.
        texts: One a token.
    """

    span: Span
    texts: tuple[str, ...]

    @property
    def name(self) -> str:
        """Its kind as a word."""
        return NAMES[self.span.kind]

    @property
    def told(self) -> str:
        """What it is, in one line."""
        span = self.span
        here = f"tokens {span.start:,}-{span.start + span.length - 1:,}" if span.length > 1 else f"token {span.start:,}"
        if span.donor_turn is None or span.donor_start is None:
            return f"{self.name}: {here}"
        about = "about token" if span.kind is Kind.SEMANTIC else "token"
        line = f"{self.name}: {here} from turn {span.donor_turn}, {about} {span.donor_start:,}"
        shift = span.start - span.donor_start
        if span.kind is Kind.MOVED:
            line += f", moved by {shift:+,}"
        if span.kind is Kind.SEMANTIC:
            line += f", mean distance {span.distance:.2f}"
        return line


@dataclass(frozen=True)
class TurnMap:
    """A turn with its map.

    Attributes:
        row: What the registry knows of it (`registry.browsing.TurnRow`).
        runs: Its prompt; empty for turns stored without a map.
        named: Whether the texts are the tokens' own; without the model's tokenizer they are dots.
    """

    row: Any
    runs: tuple[Run, ...]
    named: bool = True

    @property
    def report(self) -> dict[str, Any]:
        """The stored report."""
        loaded: dict[str, Any] = json.loads(self.row.report)
        return loaded


def turn_map(row: Any, tokens: NDArray[np.int32], tokenizer: Any | None) -> TurnMap:
    """The map of a stored turn.

    Args:
        row: The turn.
        tokens: Its token ids, prompt first, shape `(tokens,)`; may be empty.
        tokenizer: Of its model; None where that cannot be had.
    """
    spans = unpacked(json.loads(row.report).get("spans", ()))
    total = sum(span.length for span in spans)
    named = tokenizer is not None and len(tokens) >= total
    texts: list[str] = ["·"] * total
    if tokenizer is not None and named and total:
        texts = tokenizer.batch_decode([[int(i)] for i in tokens[:total]])
    runs = tuple(Run(s, tuple(texts[s.start : s.start + s.length])) for s in spans)
    return TurnMap(row, runs, named)
