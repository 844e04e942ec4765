"""Semantic matching of tokens: locality-sensitive hashing on position-carrying embeddings, along a coherent path.

SemShareKV (arXiv 2509.24832) gives each prompt token the reference token that is nearest by LSH on token embeddings
to which RoPE was applied, so that position takes part. Two things are done differently here, both measured:

- Codes are compared only in a corridor around anchors (token n-grams that both texts have once), so the work grows
  with the length of the texts and not with its square.
- Tokens do not choose alone. The path of matches runs forward through the reference and pays for each jump, because
  KV that was computed side by side is worth more than KV gathered token by token (`docs/internals/departures.md`).
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray

from semshare_agents.values import Floats, Ints

CODE_BITS = 128
ANCHOR_TOKENS = 3
CORRIDOR_TOKENS = 160
JUMP_COST = 0.3
ROPE_THETA = 10_000.0
ROPE_SHARE = 0.15
"""Share of a code's weight that carries position; the rest is the embedding alone."""


class TokenCodes:
    """LSH codes of a model's tokens.

    Args:
        embeddings: Input embeddings `(vocabulary, hidden)`.
        bits: Random hyperplanes, hence bits of a code.
    """

    def __init__(self, embeddings: torch.Tensor, bits: int = CODE_BITS):
        self._embeddings = embeddings
        self.bits = bits
        hidden = embeddings.shape[1]
        generator = torch.Generator().manual_seed(20250924)
        self._planes = torch.randn(hidden, bits, generator=generator)
        sample = embeddings[:: max(1, len(embeddings) // 8192)].float().cpu()
        self._mean = sample.mean(0)

    @torch.inference_mode()
    def of(self, tokens: Ints) -> Floats:
        """Codes of tokens as signs, shape `(tokens, bits)`, each -1 or 1; the agreement of two is LSH similarity."""
        ids, back = np.unique(tokens, return_inverse=True)
        codes: Floats = self._signs(self._centred(ids)).numpy()[back]
        return codes

    @torch.inference_mode()
    def at(self, tokens: Ints, positions: Ints) -> Floats:
        """Codes of tokens' embeddings with RoPE applied, as the paper has them; shapes as in `of`."""
        rows = self._centred(tokens)
        half = rows.shape[1] // 2
        frequencies = ROPE_THETA ** (-torch.arange(half, dtype=torch.float64) / half)
        angles = torch.as_tensor(positions, dtype=torch.float64)[:, None] * frequencies
        cos, sin = angles.cos().float(), angles.sin().float()
        first, second = rows[:, :half], rows[:, half : 2 * half]
        turned = torch.cat((first * cos - second * sin, second * cos + first * sin, rows[:, 2 * half :]), dim=1)
        codes: Floats = self._signs(turned).numpy()
        return codes

    def _centred(self, tokens: Ints) -> torch.Tensor:
        """Embeddings less their mean, which all tokens share and which tells none apart, `(tokens, hidden)`."""
        rows = self._embeddings[torch.as_tensor(tokens, device=self._embeddings.device)]
        return rows.float().cpu() - self._mean

    def _signs(self, rows: torch.Tensor) -> torch.Tensor:
        return torch.where(rows @ self._planes >= 0, 1.0, -1.0)


def anchors(prompt: Ints, reference: Ints) -> NDArray[np.int64]:
    """Places where both texts have the same n-gram, each of them once, as the longest forward chain.

    Returns:
        Pairs `(prompt position, reference position)`, ascending in both, shape `(anchors, 2)`.
    """
    if min(len(prompt), len(reference)) < ANCHOR_TOKENS:
        return np.zeros((0, 2), np.int64)
    a, b = _grams(prompt), _grams(reference)
    grams_a, first_a, count_a = np.unique(a, return_index=True, return_counts=True)
    grams_b, first_b, count_b = np.unique(b, return_index=True, return_counts=True)
    _, in_a, in_b = np.intersect1d(grams_a[count_a == 1], grams_b[count_b == 1], return_indices=True)
    pairs = np.stack((first_a[count_a == 1][in_a], first_b[count_b == 1][in_b]), axis=1)
    pairs = pairs[np.argsort(pairs[:, 0])]
    return pairs[_longest_rising(pairs[:, 1])]


def _grams(tokens: Ints) -> NDArray[np.uint64]:
    size = len(tokens) - ANCHOR_TOKENS + 1
    out = np.zeros(size, np.uint64)
    with np.errstate(over="ignore"):
        for i in range(ANCHOR_TOKENS):
            out = out * np.uint64(0x100000001B3) + tokens[i : i + size].astype(np.uint64) + np.uint64(1)
    return out


def _longest_rising(values: Ints) -> Ints:
    """Indices of a longest strictly rising subsequence (patience sorting)."""
    tails: list[int] = []
    heads = np.empty(len(values), np.int64)
    before = np.full(len(values), -1, np.int64)
    for i, value in enumerate(values):
        at = int(np.searchsorted(heads[: len(tails)], value))
        heads[at] = value
        before[i] = tails[at - 1] if at else -1
        tails[at : at + 1] = [i]
    chosen: list[int] = []
    i = tails[-1] if tails else -1
    while i >= 0:
        chosen.append(i)
        i = int(before[i])
    return np.asarray(chosen[::-1], np.int64)


def match(codes: TokenCodes, part: Ints, reference: Ints, fixed: NDArray[np.int64]) -> tuple[Ints, Floats]:
    """Match tokens along the best forward path near the anchors.

    Args:
        codes: The model's token codes.
        part: Prompt tokens, shape `(tokens,)`.
        reference: The donor's tokens, shape `(reference tokens,)`.
        fixed: Anchors `(anchors, 2)`.

    Returns:
        Reference position and LSH distance in [0, 1] of each prompt token, each of shape `(tokens,)`.
    """
    width = min(CORRIDOR_TOKENS, len(reference))
    centre = _centre(len(part), fixed)
    low = np.clip(centre - width / 2, 0, len(reference) - width).astype(np.int64)
    low = np.maximum.accumulate(low)
    first, last = int(low[0]), int(low[-1]) + width
    near = reference[first:last]
    with_rope = _with_positions(codes.of(part), centre)
    against = _with_positions(codes.of(near), np.arange(first, last, dtype=np.float64))
    source = forward_path(_corridor_scores(with_rope, against, low - first, width), low)
    return source, distances(codes, part, reference[source])


def distances(codes: TokenCodes, tokens: Ints, others: Ints) -> Floats:
    """LSH distance in [0, 1] of each token's embedding to the one beside it, wherever they stand, `(tokens,)`."""
    agreement = np.einsum("ij,ij->i", codes.of(tokens), codes.of(others)) / codes.bits
    return np.asarray((1.0 - agreement) / 2.0, np.float32)


def _centre(tokens: int, fixed: NDArray[np.int64]) -> NDArray[np.float64]:
    """Where each prompt token is expected: straight between anchors, at their distance beyond the outermost."""
    (x0, y0), (x1, y1) = fixed[0], fixed[-1]
    xs = np.concatenate(([min(x0, 0) - 1], fixed[:, 0], [tokens]))
    ys = np.concatenate(([y0 - x0 - 1], fixed[:, 1], [y1 + tokens - x1]))
    return np.asarray(np.interp(np.arange(tokens), xs, ys))


def forward_path(score: Floats, low: Ints) -> Ints:
    """The best path of reference positions that never runs backwards.

    Dynamic programming over prompt tokens: a match earns its similarity, each reference token skipped or repeated
    costs `JUMP_COST`. A prompt token costs a few operations on a vector of the corridor's width.

    Args:
        score: Similarity of each prompt token with its corridor's reference tokens, shape `(tokens, width)`.
        low: First reference position of each token's corridor, never falling, shape `(tokens,)`.

    Returns:
        Reference positions, shape `(tokens,)`, never falling.
    """
    count, width = score.shape
    offsets = np.arange(width, dtype=np.float32) * np.float32(JUMP_COST)
    index = np.arange(width)
    came = np.zeros((count, width), np.int32)
    best = score[0] - offsets
    for i in range(1, count):
        shift = int(low[i] - low[i - 1])
        # Coming from reference position j - 1 is free, from j costs a repeat, from further back each token skipped.
        step = _shifted(best, shift - 1)
        repeat = _shifted(best, shift) - np.float32(JUMP_COST)
        stays = repeat > step
        raised = np.where(stays, repeat, step) + offsets
        # What the corridor leaves behind may still skip ahead to its first column.
        left = (best + offsets)[: max(0, shift - 1)]
        fallen = int(left.argmax()) if len(left) else -1
        fell = fallen >= 0 and left[fallen] - np.float32((shift - 1) * JUMP_COST) > raised[0]
        if fell:
            raised[0] = left[fallen] - np.float32((shift - 1) * JUMP_COST)
        top = np.maximum.accumulate(raised)
        origin = np.maximum.accumulate(np.where(raised >= top, index, 0))
        came[i] = origin + shift - 1 + stays[origin]
        if fell:
            came[i, origin == 0] = fallen
        best = top - offsets + score[i]
    column = int(best.argmax())
    columns = np.empty(count, np.int64)
    for i in range(count - 1, 0, -1):
        columns[i] = column
        column = min(max(int(came[i, column]), 0), width - 1)
    columns[0] = column
    return low + columns


def _shifted(values: Floats, shift: int) -> Floats:
    """`out[c] = values[c + shift]`, minus infinity where that leaves the vector."""
    if shift == 0:
        return values
    out = np.full(len(values), -np.inf, np.float32)
    if 0 < shift < len(values):
        out[:-shift] = values[shift:]
    elif -len(values) < shift < 0:
        out[-shift:] = values[:shift]
    return out


def _corridor_scores(codes_a: Floats, codes_b: Floats, low: Ints, width: int) -> Floats:
    """Agreement, at most 1, of each prompt token with the reference tokens of its corridor, shape `(tokens, width)`."""
    scores = np.empty((len(codes_a), width), np.float32)
    strip = 64
    for a in range(0, len(codes_a), strip):
        b = min(a + strip, len(codes_a))
        first, last = int(low[a]), int(low[b - 1]) + width
        block = codes_a[a:b] @ codes_b[first:last].T
        columns = (low[a:b] - first)[:, None] + np.arange(width)
        scores[a:b] = np.take_along_axis(block, columns, axis=1)
    return scores / np.float32(CODE_BITS)


def _with_positions(codes: Floats, positions: NDArray[np.float64]) -> Floats:
    """Let position take part in a code: RoPE on a constant vector, with `ROPE_SHARE` of the code's weight.

    The paper rotates the embedding itself, which makes equal words a few tokens apart look unrelated; an added rotary
    part lets agreement fall off with distance instead.

    Args:
        codes: `(tokens, bits)`.
        positions: Expected or true reference position of each token, shape `(tokens,)`.

    Returns:
        `(tokens, bits + rope dimensions)`, whose inner product is the weighted sum of both agreements.
    """
    angles = positions[:, None] * _frequencies()
    weight = np.sqrt(ROPE_SHARE * codes.shape[1] / angles.shape[1])
    rope = np.concatenate((np.cos(angles), np.sin(angles)), axis=1) * weight
    return np.concatenate((codes * np.sqrt(1 - ROPE_SHARE), rope), axis=1).astype(np.float32)


@lru_cache(maxsize=1)
def _frequencies() -> NDArray[np.float64]:
    period = 4 * CORRIDOR_TOKENS
    return np.asarray(2 * np.pi / (period * ROPE_THETA ** (np.arange(8) / 16.0)))
