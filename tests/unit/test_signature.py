"""Signatures find reworded turns and tell scopes apart."""

from __future__ import annotations

import numpy as np

from semshare_agents.match.signature import Signer

VOCABULARY = 20_000
SEED = bytes(range(32))


def turn(seed: int, tokens: int = 900) -> np.ndarray:
    """Text-like tokens: most of them common ones, some rare."""
    rng = np.random.default_rng(seed)
    return np.minimum((VOCABULARY * rng.random(tokens) ** 4).astype(np.int64), VOCABULARY - 1)


def reworded(tokens: np.ndarray, share: float, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    out = tokens.copy()
    where = rng.random(len(out)) < share
    out[where] = turn(seed + 1000, int(where.sum()))
    return out


def shared(signer: Signer, a: np.ndarray, b: np.ndarray) -> int:
    return len(np.intersect1d(signer.bands(a), signer.bands(b)))


def test_the_reworded_turn_ranks_first() -> None:
    signer = Signer(VOCABULARY, SEED)
    turns = [turn(s) for s in range(40)]
    hits = 0
    for s in range(40):
        scores = [shared(signer, reworded(turns[s], 0.3, s), t) for t in turns]
        hits += int(np.argmax(scores) == s)
    assert hits >= 38


def test_equal_windows_agree_in_every_band() -> None:
    signer = Signer(VOCABULARY, SEED)
    assert (signer.bands(turn(1)) == signer.bands(turn(1))).all()
    assert signer.bands(turn(1)).dtype == np.int64


def test_signatures_of_different_scopes_share_nothing() -> None:
    one, two = Signer(VOCABULARY, SEED), Signer(VOCABULARY, SEED[::-1])
    assert len(np.intersect1d(one.bands(turn(1)), two.bands(turn(1)))) == 0


def test_short_turns_have_one_window() -> None:
    signer = Signer(VOCABULARY, SEED)
    assert len(signer.bands(turn(1, 5))) == 1
    assert len(signer.bands(turn(1, 5000))) > 10


def test_similarity_is_the_weighted_jaccard_of_windows() -> None:
    signer = Signer(VOCABULARY, SEED)
    others = [turn(1), reworded(turn(1), 0.3, 5), turn(2), turn(3, 50), np.asarray([0, 0, 7])]
    found = signer.similarity(turn(1), others)

    def windows(tokens: np.ndarray) -> list[set[int]]:
        return [set(tokens[a : a + 256].tolist()) for a in range(0, max(1, len(tokens) - 128), 128)]

    def weight(some: set[int]) -> float:
        return sum((np.log1p(i) / np.log1p(VOCABULARY - 1)) ** 8 + 1e-9 for i in some)

    for value, other in zip(found, others, strict=True):
        best = [max(weight(a & b) / weight(a | b) for b in windows(other)) for a in windows(turn(1))]
        assert abs(value - np.mean(best)) < 1e-9
    assert found[0] > 1 - 1e-9
    assert found[1] > max(found[2:])
