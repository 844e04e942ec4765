"""What every eviction policy must do."""

from __future__ import annotations

import random

from semshare_agents.evict.base import NOBODY, Entry, EvictionPolicy, Use


class EvictionPolicyConformance:
    """Tests of the `EvictionPolicy` contract. Derive from it and give a fixture `policy` with an empty policy."""

    def test_an_empty_policy_has_no_candidates(self, policy: EvictionPolicy) -> None:
        """Nothing was added."""
        assert list(policy.candidates(0.0)) == []

    def test_candidates_are_all_entries_once(self, policy: EvictionPolicy) -> None:
        """Whatever their order."""
        for i in range(20):
            policy.added(Entry(f"k{i}", 10 + i, depth=i % 4), NOBODY)
        policy.added(Entry("k3", 13, depth=3), NOBODY)
        policy.used("k7", NOBODY)
        assert sorted(policy.candidates(0.0)) == sorted(f"k{i}" for i in range(20))

    def test_removed_entries_are_no_candidates(self, policy: EvictionPolicy) -> None:
        """Also when they are removed in between uses."""
        for i in range(5):
            policy.added(Entry(f"k{i}", 10), NOBODY)
        policy.removed("k2")
        policy.used("k2", NOBODY)
        assert sorted(policy.candidates(0.0)) == ["k0", "k1", "k3", "k4"]

    def test_unknown_keys_are_ignored(self, policy: EvictionPolicy) -> None:
        """A policy may be told of keys that it never saw."""
        policy.used("nobody", NOBODY)
        policy.removed("nobody")
        assert list(policy.candidates(0.0)) == []

    def test_asking_for_candidates_changes_nothing(self, policy: EvictionPolicy) -> None:
        """Two looks, and one that was broken off, see the same order."""
        for i in range(10):
            policy.added(Entry(f"k{i}", 10, depth=i), NOBODY)
        first = list(policy.candidates(0.0))
        next(policy.candidates(0.0))
        assert list(policy.candidates(0.0)) == first

    def test_removed_entries_may_come_back(self, policy: EvictionPolicy) -> None:
        """A key that left and returned is one entry."""
        policy.added(Entry("k", 10), NOBODY)
        policy.removed("k")
        policy.added(Entry("k", 10), NOBODY)
        assert list(policy.candidates(0.0)) == ["k"]

    def test_long_use_keeps_the_books_right(self, policy: EvictionPolicy) -> None:
        """Random calls of several conversations over time, against a plain set."""
        rng = random.Random(0)
        known: set[str] = set()
        at = 0.0
        for step in range(2000):
            key = f"k{rng.randrange(40)}"
            at += rng.choice((0.0, 0.1, 10.0, 500.0))
            use = Use(at, rng.choice(("", "a", "b", "c")))
            call = rng.randrange(3)
            if call == 0:
                policy.added(Entry(key, 1 + rng.randrange(100), rng.randrange(10), seconds=rng.random()), use)
                known.add(key)
            elif call == 1:
                policy.used(key, use)
            else:
                policy.removed(key)
                known.discard(key)
            if step % 50 == 0:
                assert sorted(policy.candidates(at)) == sorted(known)
                assert set(policy.expired(at)) <= known
        assert sorted(policy.candidates(at)) == sorted(known)
