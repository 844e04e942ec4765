"""What each eviction policy lets go first."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from semshare_agents.errors import ConfigurationError
from semshare_agents.evict import EvictionPolicy, PolicyOptions, make_policy
from semshare_agents.evict.base import NOBODY, Entry, Use
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


def test_ttl_expires_what_nobody_used() -> None:
    policy = make_policy("ttl", PolicyOptions(ttl_seconds=10.0))
    for at, key in enumerate("abc"):
        policy.added(Entry(key, 1), Use(float(at)))
    policy.used("a", Use(5.0))
    assert list(policy.expired(11.0)) == ["b"]
    assert list(policy.expired(15.0)) == ["b", "c", "a"]
    policy.removed("b")
    assert list(policy.expired(11.0)) == []
    assert order(policy) == "ca"


def test_gdsf_lets_the_cheapest_bytes_go() -> None:
    policy = make_policy("gdsf")
    for key, size, seconds in (("dear", 1, 4.0), ("cheap", 1, 1.0), ("large", 100, 5.0)):
        policy.added(Entry(key, size, seconds=seconds), NOBODY)
    assert list(policy.candidates(0.0)) == ["large", "cheap", "dear"]
    for _ in range(4):
        policy.used("cheap", NOBODY)
    assert list(policy.candidates(0.0)) == ["large", "dear", "cheap"]


def talk(policy: EvictionPolicy, session: str, at: float, blocks: int, first: int = 0) -> None:
    """A turn that uses a common head and its session's own blocks."""
    for number in range(blocks - 1, -1, -1):
        key = f"{session}{number}" if number >= first else f"common{number}"
        policy.added(Entry(key, 64, number * 64, 64, seconds=1.0), Use(at, session))


def test_session_keeps_what_an_active_conversation_shares() -> None:
    policy = make_policy("session")
    talk(policy, "idle", 0.0, 4, first=2)
    talk(policy, "", 1.0, 4, first=2)
    talk(policy, "active", 50_000.0, 4, first=2)
    out = list(policy.candidates(50_000.0))
    assert set(out[-4:]) == {"common0", "common1", "active2", "active3"}
    assert out.index("idle3") < out.index("idle2") < out.index("active3") < out.index("active2")
    assert out[-1] == "common0"


def test_session_lets_the_middle_go_first_where_moved_text_counts() -> None:
    policy = make_policy("session", PolicyOptions(moved=True))
    talk(policy, "s", 0.0, 8)
    out = list(policy.candidates(0.0))
    assert out == ["s5", "s4", "s3", "s2", "s6", "s7", "s1", "s0"]


def test_session_learns_who_comes_back() -> None:
    policy = make_policy("session")
    for number in range(400):
        at = 100.0 * number
        talk(policy, f"once{number}", at, 2)
        for key in (f"once{number}0", f"once{number}1"):
            policy.removed(key)
        talk(policy, "regular", at + 50.0, 2)
    talk(policy, "once", 40_000.0, 2)
    talk(policy, "regular", 39_990.0, 2)
    assert list(policy.candidates(40_001.0))[:2] == ["once1", "once0"]


def naive(name: str, calls: list[tuple[int, str]]) -> list[str]:
    """An order by brute force: all uses of every entry that is there."""
    uses: dict[str, list[int]] = {}
    for step, (call, key) in enumerate(calls):
        if call == 0:
            uses.setdefault(key, []).append(step)
        elif call == 1 and key in uses:
            uses[key].append(step)
        elif call == 2:
            uses.pop(key, None)
    rank = {
        "fifo": lambda key: uses[key][0],
        "lru": lambda key: uses[key][-1],
        "ttl": lambda key: uses[key][-1],
        # Nothing has gone as the cheapest, so there is no age yet.
        "gdsf": lambda key: (len(uses[key]) * (1 + ord(key)), uses[key][-1]),
        "lfu": lambda key: (len(uses[key]), uses[key][-1]),
    }[name]
    return sorted(uses, key=rank)


@pytest.mark.parametrize("name", ["fifo", "lru", "ttl", "gdsf", "lfu"])
@given(
    calls=st.lists(st.tuples(st.integers(0, 2), st.sampled_from("abcdef")), max_size=60),
)
def test_policies_agree_with_naive_ones(name: str, calls: list[tuple[int, str]]) -> None:
    if name in ("gdsf", "lfu"):
        calls = [call for call in calls if call[0] < 2]
    policy = make_policy(name)
    for step, (call, key) in enumerate(calls):
        use = Use(float(step))
        if call == 0:
            policy.added(Entry(key, 1, seconds=float(1 + ord(key))), use)
        elif call == 1:
            policy.used(key, use)
        else:
            policy.removed(key)
    assert list(policy.candidates(float(len(calls)))) == naive(name, calls)


@pytest.mark.parametrize(
    "wrong", [{"low_watermark": 0.9, "high_watermark": 0.8}, {"high_watermark": 0.0}, {"tenant_bytes": 0}]
)
def test_contradictory_limits_are_refused(tmp_path: Path, wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigurationError, match=r"watermark|tenant_bytes"):
        load_settings(home=tmp_path, **wrong)
