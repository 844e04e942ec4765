"""What every matcher must do."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import numpy as np
import pytest
import torch

from semshare_agents.match.matchers import Matcher
from semshare_agents.match.tokens import TokenCodes, anchors, distances
from semshare_agents.values import Floats, Ints

VOCABULARY, HIDDEN = 6000, 48
RANDOM_DISTANCE = 0.5
"""LSH distance of unrelated embeddings, about."""


@lru_cache(maxsize=1)
def random_codes() -> TokenCodes:
    """Codes of tokens that have nothing in common."""
    return TokenCodes(torch.randn(VOCABULARY, HIDDEN, generator=torch.Generator().manual_seed(3)))


def reworded(length: int, every: int = 9, seed: int = 0) -> tuple[Ints, Ints, Ints]:
    """A text, another wording of its middle half, and the places that were left as they are.

    Args:
        length: Tokens of the text, each of them once.
        every: Every how many-th token another one stands.
        seed: Of the draw.

    Returns:
        Part, reference, and for each token of the part its place in the reference, -1 where it is a new token.
    """
    rng = np.random.default_rng(seed)
    words = rng.permutation(VOCABULARY)
    reference, part = words[:length], words[length // 4 : length // 4 + length // 2].copy()
    place = np.arange(length // 4, length // 4 + len(part))
    part[every - 1 :: every] = words[length : length + len(part[every - 1 :: every])]
    place[every - 1 :: every] = -1
    return part, reference, place


class MatcherConformance:
    """Tests of the `Matcher` contract. Derive from it and give a fixture `matcher`.

    A matcher is called for regions that share some n-grams with the reference: at least one anchor is given.
    """

    @pytest.fixture
    def codes(self) -> TokenCodes:
        """Codes of random embeddings."""
        return random_codes()

    def run(self, matcher: Matcher, codes: TokenCodes, part: Ints, start: int, reference: Ints) -> tuple[Ints, Floats]:
        """Match, and check what holds of every match: shapes, types, range, and what distances mean."""
        fixed = anchors(part, reference)
        assert len(fixed), "the test gives a region without an anchor"
        given = (part.copy(), reference.copy(), fixed.copy())
        source, distance = matcher(codes, part, start, reference, fixed)
        assert all(np.array_equal(a, b) for a, b in zip(given, (part, reference, fixed), strict=True)), "inputs changed"
        assert source.shape == distance.shape == part.shape
        assert np.issubdtype(source.dtype, np.integer)
        assert distance.dtype == np.float32
        assert source.min() >= 0
        assert source.max() < len(reference)
        assert np.allclose(distance, distances(codes, part, reference[source]), atol=1e-6)
        assert ((distance >= 0) & (distance <= 1)).all()
        assert (distance[part == reference[source]] == 0).all()
        return source, distance

    @pytest.mark.parametrize("length", [8, 40, 400, 3000])
    def test_equal_text_is_matched_to_itself(self, matcher: Matcher, codes: TokenCodes, length: int) -> None:
        """Whatever surrounds it in the reference, whose other tokens may all be skipped."""
        reference = np.random.default_rng(1).permutation(VOCABULARY)[:length]
        first, last = length // 4, length // 4 + max(3, length // 2)
        source, distance = self.run(matcher, codes, reference[first:last], first, reference)
        assert source.tolist() == list(range(first, last))
        assert (distance == 0).all()

    @pytest.mark.parametrize("length", [240, 1200, 4000])
    def test_anchors_and_what_lies_between_them_are_kept(
        self, matcher: Matcher, codes: TokenCodes, length: int
    ) -> None:
        """A reworded text: tokens that stayed keep their places, new ones have a distance."""
        part, reference, place = reworded(length)
        source, distance = self.run(matcher, codes, part, length // 4, reference)
        stayed = place >= 0
        fixed = anchors(part, reference)
        assert (source[fixed[:, 0]] == fixed[:, 1]).all()
        assert (source[stayed] == place[stayed]).mean() > 0.97
        assert (distance[~stayed] > 0).all()
        assert distance.mean() < 0.1

    @pytest.mark.parametrize("start", [0, 17, 100_000])
    def test_the_regions_place_in_the_prompt_is_no_place_in_the_reference(
        self, matcher: Matcher, codes: TokenCodes, start: int
    ) -> None:
        """A region may stand far behind the end of the text that it resembles: what is found lies in that text."""
        part, reference, _ = reworded(240, seed=5)
        self.run(matcher, codes, part, start, reference)

    def test_references_shorter_and_longer_than_the_region(self, matcher: Matcher, codes: TokenCodes) -> None:
        """Every token gets a place, also where there are fewer of them, and there may be three."""
        words = np.random.default_rng(2).permutation(VOCABULARY)
        for reference, part in (
            (words[:3], words[:300]),
            (words[:50], np.concatenate((words[500:700], words[10:40], words[800:900]))),
            (words[:5000], words[2500:2503]),
        ):
            self.run(matcher, codes, part, 0, reference)

    def test_repeated_tokens(self, matcher: Matcher, codes: TokenCodes) -> None:
        """Texts say the same word many times; equal tokens are there for all of them."""
        rng = np.random.default_rng(6)
        reference = rng.integers(0, 12, 400)
        reference[100:106] = (100, 101, 102, 103, 104, 105)
        source, distance = self.run(matcher, codes, reference[60:260], 60, reference)
        assert distance.mean() < 0.05
        assert (source[40:46] == np.arange(100, 106)).all()

    def test_unlike_tokens_are_told_as_unlike(self, matcher: Matcher, codes: TokenCodes) -> None:
        """The caller refuses donors by the mean distance: it must tell a retold text from another one."""
        words = np.random.default_rng(7).permutation(VOCABULARY)
        other = np.concatenate((words[:3], words[1000:1400]))
        _, distance = self.run(matcher, codes, other, 0, words[:500])
        assert 0.25 < distance[3:].mean() < RANDOM_DISTANCE + 0.05

    def test_equal_calls_have_equal_results_on_any_thread(self, matcher: Matcher, codes: TokenCodes) -> None:
        """Regions of several turns are matched side by side."""
        texts = [reworded(200 + 40 * seed, seed=seed) for seed in range(4)]
        alone = [self.run(matcher, codes, part, 9, reference) for part, reference, _ in texts]

        def work(i: int) -> bool:
            part, reference, _ = texts[i % 4]
            source, distance = self.run(matcher, codes, part, 9, reference)
            return np.array_equal(source, alone[i % 4][0]) and np.array_equal(distance, alone[i % 4][1])

        with ThreadPoolExecutor(4) as pool:
            assert all(pool.map(work, range(16)))
