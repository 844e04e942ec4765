"""The paper's matching and its ablation against exhaustive search in plain loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from semshare_agents.errors import ConfigurationError
from semshare_agents.llm import SemShareLLM
from semshare_agents.match import matchers
from semshare_agents.match.align import align_semantic
from semshare_agents.match.matchers import MATCHERS, make_matcher, nearest, position_free
from semshare_agents.match.tokens import TokenCodes, anchors
from semshare_agents.values import Alignment, BlockRef, Donor, Kind

NO_ANCHORS = np.zeros((0, 2), np.int64)
HIDDEN, BITS = 48, 128


def embeddings(vocabulary: int = 500) -> torch.Tensor:
    return torch.randn(vocabulary, HIDDEN, generator=torch.Generator().manual_seed(3))


def rotated(row: torch.Tensor, position: int) -> torch.Tensor:
    """RoPE of one vector, pair by pair, as complex numbers."""
    half = len(row) // 2
    pairs = torch.complex(row[:half].double(), row[half:].double())
    angles = torch.tensor([position * 10_000.0 ** (-i / half) for i in range(half)], dtype=torch.float64)
    turned = pairs * torch.polar(torch.ones_like(angles), angles)
    return torch.cat((turned.real, turned.imag)).float()


def exhaustive(part: np.ndarray, start: int, reference: np.ndarray, with_rope: bool) -> list[int]:
    """The reference position of each token by comparing it with every one, bit by bit."""
    table = embeddings()
    codes = TokenCodes(table)
    planes = torch.randn(HIDDEN, BITS, generator=torch.Generator().manual_seed(20250924))

    def code(token: int, position: int) -> list[bool]:
        row = table[token] - codes._mean
        return ((rotated(row, position) if with_rope else row) @ planes >= 0).tolist()

    there = [code(int(token), j) for j, token in enumerate(reference)]
    found = []
    for i, token in enumerate(part):
        here = code(int(token), start + i)
        agreements = [sum(a == b for a, b in zip(here, other, strict=True)) for other in there]
        found.append(agreements.index(max(agreements)))
    return found


@pytest.mark.parametrize(("matcher", "with_rope"), [(nearest, True), (position_free, False)])
def test_equals_exhaustive_search(matcher: matchers.Matcher, with_rope: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matchers, "STRIP_TOKENS", 32)
    rng = np.random.default_rng(1)
    reference, part = rng.integers(0, 500, 120), rng.integers(0, 500, 90)
    source, distance = matcher(TokenCodes(embeddings()), part, 40, reference, NO_ANCHORS)
    assert source.tolist() == exhaustive(part, 40, reference, with_rope)
    equal = part == reference[source]
    assert (distance[equal] == 0).all()
    assert (distance[~equal] > 0).all()
    assert distance.dtype == np.float32


def test_rope_prefers_the_equal_token_at_its_own_place() -> None:
    reference = np.arange(200) % 20
    part = reference[60:80]
    codes = TokenCodes(embeddings())
    assert nearest(codes, part, 60, reference, NO_ANCHORS)[0].tolist() == list(range(60, 80))
    assert position_free(codes, part, 60, reference, NO_ANCHORS)[0].tolist() == list(range(20))


def test_rope_keeps_lengths_and_equal_offsets() -> None:
    """What a code carries of position is the distance between two tokens, not where they stand."""
    codes = TokenCodes(embeddings(), bits=4096)
    near = (codes.at(np.asarray([5]), np.asarray([3])) * codes.at(np.asarray([9]), np.asarray([7]))).mean()
    far = (codes.at(np.asarray([5]), np.asarray([503])) * codes.at(np.asarray([9]), np.asarray([507]))).mean()
    assert math.isclose(near, far, abs_tol=0.08)
    assert (codes.at(np.asarray([5]), np.asarray([0])) == codes.of(np.asarray([5]))).all()


@pytest.mark.parametrize("name", MATCHERS)
def test_every_matcher_serves_the_alignment(name: str) -> None:
    rng = np.random.default_rng(4)
    reference = rng.permutation(500)[:300]
    prompt = np.concatenate((rng.integers(0, 500, 10), reference[40:240]))
    prompt[10::9] = rng.integers(0, 500, len(prompt[10::9]))
    donor = Donor(3, reference, (BlockRef("k", 0, 280, 280),), 280)
    taken = align_semantic(
        prompt, Alignment.empty(210), [(10, 210)], [donor], TokenCodes(embeddings()), 0.2, make_matcher(name)
    )
    semantic = taken.kind == Kind.SEMANTIC
    assert not semantic[:10].any()
    assert semantic[10:].mean() > 0.7
    assert taken.source[semantic].max() < 280
    assert (taken.distance[semantic & (prompt == reference[taken.source])] == 0).all()
    assert len(anchors(prompt[10:], reference)) > 8


async def test_an_unknown_matching_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="unknown matching 'fuzzy'; known: path, nearest, position-free"):
        await SemShareLLM.open(matching="fuzzy")
