"""What each eviction policy lets go first."""

from __future__ import annotations

from pathlib import Path

import pytest

from semshare_agents.errors import ConfigurationError
from semshare_agents.evict import EvictionPolicy, make_policy
from semshare_agents.evict.base import NOBODY, Entry
from semshare_agents.settings import load_settings


def filled(name: str, keys: str) -> EvictionPolicy:
    policy = make_policy(name)
    for key in keys:
        policy.added(Entry(key, 1), NOBODY)
    return policy


def order(policy: EvictionPolicy) -> str:
    return "".join(policy.candidates(0.0))


def test_lru_goes_by_the_last_use() -> None:
    policy = filled("lru", "abc")
    policy.used("a", NOBODY)
    assert order(policy) == "bca"


def test_fifo_goes_by_arrival() -> None:
    policy = filled("fifo", "abc")
    policy.used("a", NOBODY)
    policy.added(Entry("a", 1), NOBODY)
    assert order(policy) == "abc"


def test_lfu_goes_by_the_number_of_uses() -> None:
    policy = filled("lfu", "abc")
    for key in "aab":
        policy.used(key, NOBODY)
    assert order(policy) == "cba"


def test_lfu_forgets_old_fame() -> None:
    policy = filled("lfu", "a")
    for _ in range(5):
        policy.used("a", NOBODY)
    # Each newcomer that goes makes the next one worth as much more.
    for number in range(8):
        policy.added(Entry(f"new{number}", 1), NOBODY)
        gone = next(policy.candidates(0.0))
        policy.removed(gone)
        if gone == "a":
            return
    pytest.fail("what was used long ago stays for ever")


def test_slru_keeps_what_was_used_again_through_a_sweep() -> None:
    policy = filled("slru", "ab")
    policy.used("a", NOBODY)
    for number in range(20):
        policy.added(Entry(str(number), 1), NOBODY)
    assert list(policy.candidates(0.0))[-1] == "a"
    assert next(policy.candidates(0.0)) == "b"


def test_slru_protects_a_share_only() -> None:
    policy = filled("slru", "abcde")
    for key in "abcde":
        policy.used(key, NOBODY)
    assert next(policy.candidates(0.0)) == "a"


def test_each_tier_has_its_policy(tmp_path: Path) -> None:
    settings = load_settings(home=tmp_path, eviction="slru", disk_eviction="lfu")
    assert settings.evictions == {"device": "slru", "memory": "slru", "disk": "lfu"}


@pytest.mark.parametrize("name", ["", "most", "LRU "])
def test_an_unknown_policy_is_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match="known: fifo, gdsf, lfu, lru, session, slru, ttl"):
        make_policy(name)
