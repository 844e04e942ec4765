"""The second pass: the prompt's end looks at the reused KV first, then what it looks at is computed.

Moved text that now follows text which its donor never saw is where moved reuse drifts (lost cross-attention), and not
every row of it matters to the question: those that the question attends to do.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from semshare_agents.values import Alignment, Floats, Ints, Kind, Look

OBSERVATION_TOKENS = 32
"""Most rows at a prompt's end whose attention counts."""
LEAST_LOOK_ROWS = 32
"""For fewer rows, as after a short insertion, watching the attention is not worth its time."""


def unseen_tokens(alignment: Alignment, start: int) -> int:
    """How many tokens before a moved span its KV never saw in its donor."""
    return start - _seen_tokens(alignment, start)


def gone_tokens(alignment: Alignment, start: int) -> int:
    """How many tokens a moved span's KV saw in its donor that do not precede it here."""
    return max(0, int(alignment.source[start]) - _seen_tokens(alignment, start))


def _seen_tokens(alignment: Alignment, start: int) -> int:
    """How many of the tokens before a moved span its KV saw in its donor."""
    donor, source = alignment.donor[start], alignment.source[start]
    before = slice(0, start)
    theirs = alignment.donors[donor].tokens
    prefix = int(((alignment.kind[before] == Kind.EXACT) & _same_place(alignment, donor, start)).sum())
    seen = (alignment.donor[before] == donor) & (alignment.source[before] < source)
    seen &= alignment.kind[before] != Kind.EXACT
    return min(prefix, len(theirs)) + int(seen.sum())


def _same_place(alignment: Alignment, donor: int, start: int) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Which of the first `start` tokens the donor has at their own place."""
    out = np.zeros(start, np.bool_)
    exact = alignment.kind[:start] == Kind.EXACT
    theirs = alignment.donors[donor].tokens[:start]
    for index in np.unique(alignment.donor[:start][exact]).tolist():
        others = alignment.donors[index].tokens[: len(theirs)]
        count = min(len(others), len(theirs))
        out[:count] |= others[:count] == theirs[:count]
    return out


def look_at_moved(alignment: Alignment, share: float, required: Ints) -> Look | None:
    """The look at moved spans that follow text unknown to their donor; None where there is nothing worth it.

    Args:
        alignment: Where the KV comes from.
        share: Rows to compute per unseen token.
        required: Rows that are computed anyway.
    """
    budget = 0.0
    parts: list[Ints] = []
    for start, end in alignment.runs():
        if alignment.kind[start] == Kind.MOVED:
            unseen = min(unseen_tokens(alignment, start), end - start)
            if unseen > 0:
                budget += share * unseen
                parts.append(np.arange(start, end))
    if round(budget) < LEAST_LOOK_ROWS:
        return None
    return _among(parts, required, round(budget))


def look_among_moved(alignment: Alignment, share: float, required: Ints) -> Look | None:
    """A look at all moved rows, of which a share is computed; None where there are none but required ones.

    Args:
        alignment: Where the KV comes from.
        share: Rows to compute, of those that are not required.
        required: Rows that are computed anyway.
    """
    moved = np.flatnonzero(alignment.kind == Kind.MOVED)
    return _among([moved], required, max(1, round(share * len(np.setdiff1d(moved, required)))))


def _among(parts: Sequence[Ints], required: Ints, budget: int) -> Look | None:
    rows = np.setdiff1d(np.concatenate(parts), required)
    if not len(rows):
        return None  # all of them are computed anyway
    return Look(rows, np.ones(len(rows), np.float32), min(budget, len(rows)))


def observation_window(rows: Ints, tokens: int) -> int:
    """How many of the last computed rows form the prompt's unbroken end, at most `OBSERVATION_TOKENS`."""
    back = rows[::-1][:OBSERVATION_TOKENS]
    return int((back == tokens - 1 - np.arange(len(back))).cumprod().sum())


def gathering_layers(layers: int) -> range:
    """Those of a decoder's layers in which it gathers what it needs: from the half to five sixths."""
    return range(layers // 2, max(layers // 2 + 1, layers * 5 // 6))


def gathered(attention: torch.Tensor) -> Floats:
    """What each position got of the attention of some layers, `(layers, kv_heads, keys)`; shape `(keys,)`."""
    out: Floats = attention.sum((0, 1)).float().cpu().numpy()
    return out


def seen_rows(looks: Sequence[Look], attention: Floats) -> Ints:
    """The rows that looks choose, ascending.

    Args:
        looks: What may be chosen.
        attention: What each prompt token got of the viewers' attention, shape `(tokens,)`.
    """
    chosen = [
        look.candidates[np.argsort(-(look.weight * attention[look.candidates]), kind="stable")[: look.rows]]
        for look in looks
    ]
    return np.unique(np.concatenate(chosen)) if chosen else np.zeros(0, np.int64)
