"""The reuse map of a stored turn, with the texts of its tokens."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semshare_agents.values import Kind, Span
from semshare_agents.values.reuse_map import unpacked

NAMES = {kind: kind.name.lower() for kind in Kind}


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
