"""Freed memory goes back to the system."""

from __future__ import annotations

import ctypes
from functools import lru_cache
from typing import Any


@lru_cache(maxsize=1)
def _trim() -> Any:
    try:
        return ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):
        return None  # not glibc: nothing is known to be kept


def give_back() -> None:
    """Let the C library return what was freed, or most of it.

    glibc maps large allocations apart only until some are freed; then its threshold rises to 32 MiB, and each thread's
    arena keeps twice as much of what was freed (mallopt(3), M_MMAP_THRESHOLD). Blocks of KV that come and go on several
    threads so take a multiple of their budget.
    """
    trim = _trim()
    if trim is not None:
        trim(0)
