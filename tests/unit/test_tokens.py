"""Semantic token matching against exhaustive search."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from semshare_agents.match import tokens as lsh
from semshare_agents.match.align import align_semantic
from semshare_agents.values import Alignment, BlockRef, Donor, Kind


def embeddings(vocabulary: int = 500, hidden: int = 48) -> torch.Tensor:
    return torch.randn(vocabulary, hidden, generator=torch.Generator().manual_seed(3))


def path_score(score: np.ndarray, low: np.ndarray, path: tuple[int, ...]) -> float:
    """What a path of reference positions earns; minus infinity for one that falls."""
    total = 0.0
    for i, column in enumerate(path):
        total += float(score[i, column])
        if i:
            step = (low[i] + column) - (low[i - 1] + path[i - 1])
            if step < 0:
                return -np.inf
            total -= lsh.JUMP_COST * (1 if step == 0 else step - 1)
        else:
            total -= lsh.JUMP_COST * column
    return total


@pytest.mark.parametrize("seed", range(30))
def test_forward_path_equals_brute_force(seed: int) -> None:
    rng = np.random.default_rng(seed)
    count, width = int(rng.integers(1, 6)), int(rng.integers(1, 6))
    score = rng.random((count, width)).astype(np.float32)
    low = np.cumsum(rng.integers(0, 4, count))
    feasible = [p for p in itertools.product(range(width), repeat=count) if path_score(score, low, p) > -np.inf]
    best = max(path_score(score, low, p) for p in feasible)
    found = lsh.forward_path(score.copy(), low)
    assert path_score(score, low, tuple((found - low).tolist())) == pytest.approx(best, abs=1e-5)


@pytest.mark.parametrize("seed", range(5))
def test_forward_path_never_falls(seed: int) -> None:
    rng = np.random.default_rng(seed)
    score = rng.random((200, 40)).astype(np.float32)
    low = np.cumsum(rng.integers(0, 3, 200))
    found = lsh.forward_path(score, low)
    assert (np.diff(found) >= 0).all()
    assert ((found >= low) & (found < low + 40)).all()


def test_anchors_rise_in_both_texts_and_name_unique_equal_grams() -> None:
    rng = np.random.default_rng(1)
    reference = rng.permutation(400)
    prompt = np.concatenate((reference[250:300], rng.integers(400, 500, 20), reference[20:120]))
    found = lsh.anchors(prompt, reference)
    assert len(found) >= 90
    assert (np.diff(found, axis=0) > 0).all()
    size = lsh.ANCHOR_TOKENS
    for here, there in found:
        assert (prompt[here : here + size] == reference[there : there + size]).all()


def test_anchors_ignore_repeated_grams_and_short_texts() -> None:
    repeated = np.tile([7, 8, 9], 10)
    assert len(lsh.anchors(repeated, repeated)) == 0
    assert lsh.anchors(np.asarray([1, 2]), np.arange(50)).shape == (0, 2)


def test_codes_of_equal_tokens_agree_and_of_unrelated_ones_do_so_half_the_time() -> None:
    codes = lsh.TokenCodes(embeddings())
    drawn = codes.of(np.arange(200))
    assert set(np.unique(drawn)) == {-1.0, 1.0}
    assert (codes.of(np.asarray([5, 5]))[0] == drawn[5]).all()
    agreement = (drawn[:100] * drawn[100:]).mean(1)
    assert abs(agreement.mean()) < 0.05


def test_lsh_distance_ranks_as_exact_angles_do() -> None:
    table = embeddings()
    noise = torch.randn(9, 48, generator=torch.Generator().manual_seed(1))
    table[1:10] = table[0] + torch.linspace(0.1, 3, 9)[:, None] * noise
    codes = lsh.TokenCodes(table, bits=2048).of(np.arange(10))
    centred = table[:10] - table.mean(0)
    exact = torch.nn.functional.cosine_similarity(centred[:1], centred).clamp(-1, 1).arccos().numpy() / np.pi
    hashed = (1 - (codes[0] * codes).mean(1)) / 2
    assert np.abs(exact - hashed).max() < 0.05


def test_match_finds_equal_text_at_distance_zero() -> None:
    rng = np.random.default_rng(2)
    reference = rng.permutation(500)[:300]
    part = reference[60:200].copy()
    part[50] = 499 if reference[110] != 499 else 498
    source, distance = lsh.match(lsh.TokenCodes(embeddings()), part, reference, lsh.anchors(part, reference))
    assert source.tolist() == list(range(60, 200))
    assert distance[50] > 0.2
    assert np.delete(distance, 50).max() == 0.0
    assert distance.dtype == np.float32


def donor_of(tokens: np.ndarray) -> Donor:
    return Donor(3, tokens, (BlockRef("k", 0, len(tokens), len(tokens)),), len(tokens))


def test_align_semantic_takes_like_text_and_refuses_unlike_text() -> None:
    rng = np.random.default_rng(4)
    reference = rng.permutation(500)[:300]
    reworded = reference[40:240].copy()
    reworded[::9] = rng.integers(0, 500, len(reworded[::9]))
    codes = lsh.TokenCodes(embeddings())
    free, whole = Alignment.empty(len(reworded)), [(0, len(reworded))]
    taken = align_semantic(reworded, free, whole, [donor_of(reference)], codes, threshold=0.5)
    assert (taken.kind == Kind.SEMANTIC).mean() > 0.85
    assert taken.similarity > 0.8
    assert taken.donors[0].similarity == taken.similarity
    refused = align_semantic(reworded, free, whole, [donor_of(reference)], codes, threshold=0.999)
    assert not refused.kind.any()
    assert refused.similarity == taken.similarity
    unlike = align_semantic(rng.integers(0, 500, 200), free, whole, [donor_of(reference)], codes, threshold=0.0)
    assert not unlike.kind.any()


def test_align_semantic_touches_unmatched_tokens_only() -> None:
    rng = np.random.default_rng(5)
    reference = rng.permutation(500)[:300]
    free = Alignment.empty(300)
    free.kind[:100] = Kind.MOVED
    taken = align_semantic(
        reference, free, [(100, 300)], [donor_of(reference)], lsh.TokenCodes(embeddings()), threshold=0.2
    )
    assert (taken.kind[:100] == Kind.MOVED).all()
    assert (taken.donor[:100] == -1).all()
    assert (taken.kind[100:] == Kind.SEMANTIC).all()
    assert (taken.source[100:] == np.arange(100, 300)).all()
