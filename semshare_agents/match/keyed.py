"""SipHash-2-4 (Aumasson and Bernstein, INDOCRYPT 2012) of many 64-bit words at once.

Rolling hashes and band values are sums and small numbers: whoever reads them can undo an unkeyed mix and learn tokens
from them. A keyed pseudo-random function shows nothing but which of one scope's names are equal.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint64]
KEY_BYTES = 16


def keyed(words: Words, key: bytes) -> NDArray[np.int64]:
    """The digest of each word, signed as SQL stores it.

    Args:
        words: Any shape.
        key: 16 bytes.
    """
    low, high = (np.uint64(int.from_bytes(part, "little")) for part in (key[:8], key[8:KEY_BYTES]))
    state = [
        np.full(words.shape, value, np.uint64)
        for value in (
            low ^ np.uint64(0x736F6D6570736575),
            high ^ np.uint64(0x646F72616E646F6D),
            low ^ np.uint64(0x6C7967656E657261),
            high ^ np.uint64(0x7465646279746573),
        )
    ]
    # The second word is the padding of a message of 8 bytes.
    for word in (words, np.uint64(8 << 56)):
        state[3] ^= word
        _rounds(state, 2)
        state[0] ^= word
    state[2] ^= np.uint64(0xFF)
    _rounds(state, 4)
    return (state[0] ^ state[1] ^ state[2] ^ state[3]).view(np.int64)


def _rounds(v: list[Words], count: int) -> None:
    with np.errstate(over="ignore"):
        for _ in range(count):
            v[0] += v[1]
            v[2] += v[3]
            v[1] = _left(v[1], 13) ^ v[0]
            v[3] = _left(v[3], 16) ^ v[2]
            v[0] = _left(v[0], 32) + v[3]
            v[2] += v[1]
            v[3] = _left(v[3], 21) ^ v[0]
            v[1] = _left(v[1], 17) ^ v[2]
            v[2] = _left(v[2], 32)


def _left(x: Words, bits: int) -> Words:
    return (x << np.uint64(bits)) | (x >> np.uint64(64 - bits))
