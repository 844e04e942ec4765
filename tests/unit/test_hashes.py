"""Names of blocks: chain, content, salt, branch."""

from __future__ import annotations

import blake3
import numpy as np
import pytest

from semshare_agents.match import hashes
from semshare_agents.match.keyed import keyed
from semshare_agents.values import Scope

A = Scope(1, "acme", "f" * 64, bytes(range(32)))
OTHER_TENANT = Scope(2, "other", "f" * 64, bytes(range(1, 33)))
M64 = (1 << 64) - 1


def tokens(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 50_000, count)


def mixed(x: int) -> int:
    x &= M64
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & M64
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & M64
    return x ^ (x >> 31)


def siphash(word: int, key: bytes) -> int:
    """SipHash-2-4 of eight bytes in plain integers, as the paper writes it."""
    k = [int.from_bytes(key[i : i + 8], "little") for i in (0, 8)]
    v = [
        k[i % 2] ^ int.from_bytes(text, "big")
        for i, text in enumerate((b"somepseu", b"dorandom", b"lygenera", b"tedbytes"))
    ]

    def left(x: int, bits: int) -> int:
        return (x << bits | x >> (64 - bits)) & M64

    def sip_round() -> None:
        for a, b, s, t in ((0, 1, 13, 32), (2, 3, 16, 0)):
            v[a] = (v[a] + v[b]) & M64
            v[b] = left(v[b], s) ^ v[a]
            v[a] = left(v[a], t) if t else v[a]
        for a, b, s, t in ((2, 1, 17, 32), (0, 3, 21, 0)):
            v[a] = (v[a] + v[b]) & M64
            v[b] = left(v[b], s) ^ v[a]
            v[a] = left(v[a], t) if t else v[a]

    for m in (word, 8 << 56):
        v[3] ^= m
        sip_round()
        sip_round()
        v[0] ^= m
    v[2] ^= 0xFF
    for _ in range(4):
        sip_round()
    return v[0] ^ v[1] ^ v[2] ^ v[3]


def test_keyed_words_are_siphash() -> None:
    """The reference implementation's own test vector of eight bytes, and the same in plain integers."""
    key = bytes(range(16))
    published = int.from_bytes(bytes.fromhex("6224939a79f5f593"), "little")
    word = int.from_bytes(bytes(range(8)), "little")
    assert siphash(word, key) == published
    words = np.random.default_rng(0).integers(0, M64, 50, dtype=np.uint64)
    key = blake3.blake3(b"any").digest(16)
    assert keyed(np.array([word, *words], np.uint64), key).view(np.uint64).tolist() == [
        siphash(int(w), key) for w in (word, *words)
    ]


def naive_window_hash(scope: Scope, window: np.ndarray) -> int:
    """The rolling hash in plain integers, from the window's tokens alone."""
    key = int.from_bytes(scope.hash_key[:8], "little")
    total = sum(mixed(int(t) + key) * pow(int(hashes.ROLL_BASE), i, 1 << 64) for i, t in enumerate(window)) & M64
    value = siphash(total, blake3.blake3(b"content" + scope.hash_key).digest(16))
    return value - (1 << 64) if value >> 63 else value


@pytest.mark.parametrize("count", [16, 17, 40, 128, 129])
def test_rolling_equals_a_naive_hash_of_each_window(count: int) -> None:
    text = tokens(count)
    found = hashes.rolling(A, text, 16)
    assert found.tolist() == [naive_window_hash(A, text[i : i + 16]) for i in range(count - 15)]


def test_rolling_agrees_at_any_offset_and_only_for_equal_text() -> None:
    part = tokens(16, 1)
    far = np.concatenate((tokens(37, 2), part, tokens(9, 3)))
    found = hashes.rolling(A, far, 16)
    assert found[37] == hashes.rolling(A, part, 16)[0]
    assert len(np.unique(found)) == len(found)
    changed = part.copy()
    changed[15] += 1
    assert hashes.rolling(A, changed, 16)[0] != found[37]
    assert hashes.rolling(A, part[::-1].copy(), 16)[0] != found[37]


def test_rolling_of_a_short_prompt_is_empty() -> None:
    assert hashes.rolling(A, tokens(15), 16).shape == (0,)
    assert hashes.rolling(A, tokens(0), 16).shape == (0,)


def test_names_of_different_scopes_never_agree() -> None:
    text = tokens(200)
    ours, theirs = hashes.rolling(A, text, 16), hashes.rolling(OTHER_TENANT, text, 16)
    assert not set(ours.tolist()) & set(theirs.tolist())
    chains = [{b.prefix for b in hashes.hash_blocks(s, text, 16, len(text))} for s in (A, OTHER_TENANT)]
    assert not chains[0] & chains[1]
    branches = [hashes.partial_block_hash(hashes.root(s), text) for s in (A, OTHER_TENANT)]
    assert branches[0] != branches[1]


def test_blocks_cover_the_tokens_and_only_the_last_is_short() -> None:
    blocks = hashes.hash_blocks(A, tokens(70), 16, 70)
    assert [(b.start, b.length) for b in blocks] == [(0, 16), (16, 16), (32, 16), (48, 16), (64, 6)]
    assert blocks[0].parent == hashes.root(A)
    assert [b.parent for b in blocks[1:]] == [b.prefix for b in blocks[:-1]]


def test_chains_agree_exactly_as_far_as_the_text() -> None:
    one = tokens(96)
    two = one.copy()
    two[50] += 1
    chains = [[b.prefix for b in hashes.hash_blocks(A, t, 16, 96)] for t in (one, two)]
    assert [a == b for a, b in zip(*chains, strict=True)] == [True, True, True, False, False, False]


def test_a_chain_names_its_tokens_and_what_precedes_them() -> None:
    text, parent = tokens(16), hashes.root(A)
    assert hashes.prefix_hash(parent, text) == hashes.prefix_hash(parent, text.astype(np.int32))
    assert hashes.prefix_hash(parent, text) != hashes.prefix_hash(hashes.prefix_hash(parent, text), text)
    assert len(hashes.prefix_hash(parent, text)) == 16


@pytest.mark.parametrize("exact", [0, 5, 16, 33, 48])
def test_blocks_past_the_exact_prefix_are_salted(exact: int) -> None:
    text = tokens(64)
    honest = [b.prefix for b in hashes.hash_blocks(A, text, 16, 64)]
    first, second = (
        [b.prefix for b in hashes.hash_blocks(A, text, 16, exact, salt=s)] for s in (b"turn one", b"turn two")
    )
    whole = exact // 16
    assert first[:whole] == second[:whole] == honest[:whole]
    assert not set(first[whole:]) & set(honest)
    assert not set(first[whole:]) & set(second)


def test_a_branch_names_the_first_tokens_only() -> None:
    text, parent = tokens(16), hashes.root(A)
    same_head = np.concatenate((text[: hashes.BRANCH_TOKENS], tokens(20, 9)))
    other_head = text.copy()
    other_head[hashes.BRANCH_TOKENS - 1] += 1
    assert hashes.partial_block_hash(parent, text) == hashes.partial_block_hash(parent, same_head)
    assert hashes.partial_block_hash(parent, text) != hashes.partial_block_hash(parent, other_head)
    assert hashes.partial_block_hash(parent, text) != hashes.partial_block_hash(hashes.prefix_hash(parent, text), text)
    assert hashes.partial_block_hash(parent, text[: hashes.BRANCH_TOKENS - 1]) is None


def test_contents_are_the_rolling_names_of_full_blocks() -> None:
    text = tokens(70)
    blocks = hashes.hash_blocks(A, text, 16, 70)
    found = hashes.rolling(A, text, 16)
    expected = [int(found[b.start]) for b in blocks[:-1]]
    assert hashes.content_hashes(A, text, blocks, 16) == [*expected, None]
