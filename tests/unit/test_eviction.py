"""What each eviction policy lets go first."""

from __future__ import annotations

from pathlib import Path

import pytest

from semshare_agents.errors import ConfigurationError
from semshare_agents.evict import EvictionPolicy, make_policy
from semshare_agents.evict.base import Entry
from semshare_agents.settings import load_settings


def filled(name: str, keys: str) -> EvictionPolicy:
    policy = make_policy(name)
    for key in keys:
        policy.added(Entry(key, 1))
    return policy


def order(policy: EvictionPolicy) -> str:
    return "".join(policy.candidates())


def test_lru_goes_by_the_last_use() -> None:
    policy = filled("lru", "abc")
    policy.used("a")
    assert order(policy) == "bca"


def test_fifo_goes_by_arrival() -> None:
    policy = filled("fifo", "abc")
    policy.used("a")
    policy.added(Entry("a", 1))
    assert order(policy) == "abc"


def test_lfu_goes_by_the_number_of_uses() -> None:
    policy = filled("lfu", "abc")
    for key in "aab":
        policy.used(key)
    assert order(policy) == "cba"


def test_lfu_forgets_old_fame() -> None:
    policy = filled("lfu", "a")
    for _ in range(5):
        policy.used("a")
    # Each newcomer that goes makes the next one worth as much more.
    for number in range(8):
        policy.added(Entry(f"new{number}", 1))
        gone = next(policy.candidates())
        policy.removed(gone)
        if gone == "a":
            return
    pytest.fail("what was used long ago stays for ever")


def test_slru_keeps_what_was_used_again_through_a_sweep() -> None:
    policy = filled("slru", "ab")
    policy.used("a")
    for number in range(20):
        policy.added(Entry(str(number), 1))
    assert list(policy.candidates())[-1] == "a"
    assert next(policy.candidates()) == "b"


def test_slru_protects_a_share_only() -> None:
    policy = filled("slru", "abcde")
    for key in "abcde":
        policy.used(key)
    assert next(policy.candidates()) == "a"


def test_each_tier_has_its_policy(tmp_path: Path) -> None:
    settings = load_settings(home=tmp_path, eviction="slru", disk_eviction="lfu")
    assert settings.evictions == {"device": "slru", "memory": "slru", "disk": "lfu"}


@pytest.mark.parametrize("name", ["", "most", "LRU "])
def test_an_unknown_policy_is_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match="known: fifo, lfu, lru, slru"):
        make_policy(name)
