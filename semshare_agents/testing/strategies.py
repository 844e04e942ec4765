"""What every selection strategy must do."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import pytest

from semshare_agents.reuse.strategies.base import Candidates, Choice, SelectionStrategy

COUNTS = (0, 1, 2, 7, 100, 1000)
SHARES = (0.0, 0.004, 0.03, 0.3, 0.5, 1.0)
LAYERS = (2, 3, 12, 30)


def candidates(count: int, seed: int = 0, first: int = 500) -> Candidates:
    """Random candidates, a third of them equal tokens, whose arrays cannot be written to.

    Args:
        count: How many.
        seed: Of the draw.
        first: Least position: rows are places in the prompt, not numbers of candidates.
    """
    rng = np.random.default_rng(seed)
    rows = np.sort(rng.choice(4 * count + 1, count, replace=False)).astype(np.int64) + first
    distance = rng.random(count).astype(np.float32) * (rng.random(count) > 1 / 3)
    asked = rng.random(count).astype(np.float32) * (rng.random(count) > 0.8)
    parts = (rows, distance.astype(np.float32), asked.astype(np.float32))
    for part in parts:
        part.flags.writeable = False
    return Candidates(*parts)


def row_share(choice: Choice, count: int) -> float:
    """Mean share of the candidates that is computed, over the layers above a check."""
    if choice.layer_shares:
        above = choice.layer_shares[choice.check_layer + 1 :]
        return float(np.mean(above)) if above else 0.0
    return len(choice.rows) / count if count else 0.0


def equal(a: Choice, b: Choice) -> bool:
    """Whether two choices are the same."""
    same = (a.check_layer, a.layer_shares) == (b.check_layer, b.layer_shares)
    return same and np.array_equal(a.rows, b.rows)


class StrategyConformance:
    """Tests of the `SelectionStrategy` contract. Derive from it and give a fixture `strategy`."""

    def test_has_a_name(self, strategy: SelectionStrategy) -> None:
        """By which settings and benchmarks know it."""
        assert strategy.name
        assert strategy.name == strategy.name.strip()

    @pytest.mark.parametrize("count", COUNTS)
    @pytest.mark.parametrize("share", SHARES)
    def test_chooses_among_the_candidates_within_the_budget(
        self, strategy: SelectionStrategy, count: int, share: float
    ) -> None:
        """Rows are a subset, ascending, as int64; the mean share over the layers is kept, up to rounding by one row."""
        given = candidates(count)
        for layers in LAYERS:
            choice = strategy.choose(given, share, layers)
            assert choice.rows.dtype == np.int64
            assert choice.rows.ndim == 1
            assert (np.diff(choice.rows) > 0).all()
            assert np.isin(choice.rows, given.rows).all()
            rounding = 0.0 if choice.layer_shares or not count else 1 / count
            assert row_share(choice, count) <= share + rounding + 1e-6

    @pytest.mark.parametrize("layers", LAYERS)
    @pytest.mark.parametrize("share", SHARES)
    def test_shares_of_layers_are_shares_that_only_fall(
        self, strategy: SelectionStrategy, layers: int, share: float
    ) -> None:
        """Where a choice has them: one a layer, in [0, 1]; a row that was dropped cannot come back above.

        The check's layer is one of the model's, and all candidates compute up to it: else nothing could be compared.
        """
        given = candidates(100)
        choice = strategy.choose(given, share, layers)
        if not choice.layer_shares:
            assert choice.check_layer == -1
            return
        shares = choice.layer_shares
        assert len(shares) == layers
        assert all(0.0 <= s <= 1.0 for s in shares)
        assert all(a >= b - 1e-9 for a, b in pairwise(shares))
        assert 0 <= choice.check_layer < layers
        assert set(shares[: choice.check_layer + 1]) == {1.0}
        assert np.array_equal(choice.rows, given.rows)

    def test_nothing_and_everything(self, strategy: SelectionStrategy) -> None:
        """A share of 0 computes nothing above a check, a share of 1 all that shares which fall leave of it."""
        given = candidates(100)
        assert row_share(strategy.choose(given, 0.0, 12), 100) == 0.0
        everything = strategy.choose(given, 1.0, 12)
        assert row_share(everything, 100) >= (0.5 if everything.layer_shares else 1.0)

    def test_a_larger_share_never_computes_less(self, strategy: SelectionStrategy) -> None:
        """The planner raises the share until its drift is within the target."""
        given = candidates(300)
        shares = [row_share(strategy.choose(given, share, 12), 300) for share in np.linspace(0.0, 1.0, 41)]
        assert all(a <= b + 1e-9 for a, b in pairwise(shares))
        assert len(set(shares)) > 10

    @pytest.mark.parametrize("value", [0.0, 0.4])
    def test_candidates_that_are_all_alike(self, strategy: SelectionStrategy, value: float) -> None:
        """Equal distances are no order, and still the budget is spent: rows are chosen for being approximate."""
        rows = np.arange(40, 140)
        alike = Candidates(rows, np.full(100, value, np.float32), np.zeros(100, np.float32))
        assert 0.2 <= row_share(strategy.choose(alike, 0.3, 12), 100) <= 0.31

    def test_keeps_nothing_between_calls(self, strategy: SelectionStrategy) -> None:
        """One strategy serves all turns: the same question has the same answer, whatever was asked meanwhile."""
        given = [candidates(count, seed=count) for count in (3, 50, 400)]
        first = [strategy.choose(part, 0.2, 12) for part in given]
        again = [strategy.choose(part, 0.2, 12) for part in reversed(given)][::-1]
        assert all(equal(a, b) for a, b in zip(first, again, strict=True))

    def test_threads_may_share_a_strategy(self, strategy: SelectionStrategy) -> None:
        """Turns are planned side by side."""
        given = [candidates(50 + i, seed=i) for i in range(8)]
        alone = [strategy.choose(part, 0.2, 12) for part in given]
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda i: strategy.choose(given[i % 8], 0.2, 12), range(80)))
        assert all(equal(choice, alone[i % 8]) for i, choice in enumerate(found))
