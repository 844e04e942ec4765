"""The names of a block: prefix hash, content hash and signature.

- The **prefix hash** digests a block's tokens and the prefix hash before it: equal for the same text after the same
  text.
- The **content hash** is a rolling hash of a full block's tokens: equal for the same text anywhere.
- The **signature** is locality-sensitive: close for text that says much the same (`semshare_agents.match.signature`).

All names are keyed by their scope's hash key, so names of different tenants or models never agree. The registry's
columns call the prefix hash `chain` and the partial-block hash `branch`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import blake3
import numpy as np
from numpy.typing import NDArray

from semshare_agents.match.keyed import KEY_BYTES, keyed
from semshare_agents.values import Ints, Scope

ROLL_BASE = np.uint64(0x9E3779B97F4A7C15 | 1)
"""Odd, so that it has an inverse modulo 2**64 and windows can be hashed from prefix sums."""

BRANCH_TOKENS = 8
"""Common beginnings shorter than this inside a block are computed again rather than looked for."""


@dataclass(frozen=True)
class HashedBlock:
    """A block of a prompt or a turn.

    Attributes:
        start: Position of its first token.
        length: Its tokens; less than the block size only at the end.
        prefix: Prefix hash, 16 bytes.
        parent: Prefix hash of the block before it.
    """

    start: int
    length: int
    prefix: bytes
    parent: bytes


def root(scope: Scope) -> bytes:
    """The prefix hash before the first block of a scope."""
    return blake3.blake3(b"root" + scope.hash_key).digest(16)


def salted(parent: bytes, salt: bytes) -> bytes:
    """A prefix hash that no prompt's can reach: for blocks whose KV is not exact."""
    return blake3.blake3(b"salt" + parent + salt).digest(16)


def prefix_hash(parent: bytes, tokens: Ints) -> bytes:
    """The prefix hash of a block of tokens `(tokens,)` that follows `parent`."""
    return blake3.blake3(parent + np.ascontiguousarray(tokens, dtype="<i4").tobytes()).digest(16)


def partial_block_hash(parent: bytes, tokens: Ints) -> bytes | None:
    """Names what follows `parent` by its first few tokens, so that a block is found that agrees only at its beginning.

    Returns:
        16 bytes, or None for fewer than `BRANCH_TOKENS` tokens.
    """
    if len(tokens) < BRANCH_TOKENS:
        return None
    return blake3.blake3(b"branch" + parent + tokens[:BRANCH_TOKENS].astype("<i4").tobytes()).digest(16)


def hash_blocks(
    scope: Scope, tokens: Ints, block_tokens: int, exact_tokens: int, salt: bytes = b""
) -> list[HashedBlock]:
    """Cut tokens into blocks and name them.

    Args:
        scope: Their tenant and model.
        tokens: Token ids, shape `(tokens,)`.
        block_tokens: Size of a block; the last one may be shorter.
        exact_tokens: Length of the prefix whose KV is exact; blocks that reach past it get salted prefix hashes.
        salt: What salts them; unique per turn.
    """
    named: list[HashedBlock] = []
    parent, is_salted = root(scope), False
    for start in range(0, len(tokens), block_tokens):
        part = tokens[start : start + block_tokens]
        if start + len(part) > exact_tokens and not is_salted:
            parent, is_salted = salted(parent, salt), True
        name = prefix_hash(parent, part)
        named.append(HashedBlock(start, len(part), name, parent))
        parent = name
    return named


def rolling(scope: Scope, tokens: Ints, window: int) -> NDArray[np.int64]:
    """Content hashes of every window of a prompt: a polynomial rolling hash modulo 2**64, behind a keyed one.

    Args:
        scope: Keys the hash.
        tokens: Token ids, shape `(tokens,)`.
        window: Window size in tokens.

    Returns:
        Shape `(tokens - window + 1,)`, empty for short prompts; signed, as SQL stores it.
    """
    count = len(tokens) - window + 1
    if count < 1:
        return np.zeros(0, np.int64)
    mixed = mix(tokens.astype(np.uint64) + np.uint64(int.from_bytes(scope.hash_key[:8], "little")))
    powers, inverses = _powers(_ceiling(len(tokens)))
    with np.errstate(over="ignore"):
        sums = np.concatenate((np.zeros(1, np.uint64), np.cumsum(mixed * powers[: len(tokens)], dtype=np.uint64)))
        hashes = (sums[window:] - sums[:-window]) * inverses[:count]
    return keyed(hashes, blake3.blake3(b"content" + scope.hash_key).digest(KEY_BYTES))


def content_hashes(scope: Scope, tokens: Ints, blocks: Sequence[HashedBlock], block_tokens: int) -> list[int | None]:
    """The content hash of each block; None for blocks shorter than the block size."""
    hashes = rolling(scope, tokens, block_tokens)
    return [int(hashes[b.start]) if b.length == block_tokens else None for b in blocks]


def mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64's finaliser (Steele, Lea and Flood, OOPSLA 2014): spreads every bit over the word."""
    with np.errstate(over="ignore"):
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _ceiling(count: int) -> int:
    return 1 << (count - 1).bit_length()


@lru_cache(maxsize=8)
def _powers(count: int) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    inverse = np.uint64(pow(int(ROLL_BASE), -1, 1 << 64))
    steps = np.full(count, ROLL_BASE, np.uint64)
    back = np.full(count, inverse, np.uint64)
    steps[0] = back[0] = 1
    with np.errstate(over="ignore"):
        return np.cumprod(steps, dtype=np.uint64), np.cumprod(back, dtype=np.uint64)
