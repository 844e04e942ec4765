"""How deep JSON values are nested. Whoever walks a value by recursion asks here first."""

from __future__ import annotations

from collections.abc import Mapping

MOST_NESTED = 100
"""Deeper values are refused: Python's own JSON reader and every template give up at some depth below 1,000."""


NESTED = (dict, list, tuple)
PLAIN = frozenset({str, int, float, bool, type(None)})


def too_deep(value: object, most: int = MOST_NESTED) -> bool:
    """Whether lists and mappings are nested deeper than `most`; never by recursion."""
    level, depth = [value], 0
    while level:
        inner: list[object] = []
        for item in level:
            if isinstance(item, list | tuple):
                inner += item
            elif isinstance(item, (dict, Mapping)):
                inner += item.values()
        # Most values are plain, and asking whether one is any mapping takes long.
        level = [i for i in inner if type(i) not in PLAIN and (isinstance(i, (NESTED, Mapping)))]
        depth += 1
        if depth >= most and level:
            return True
    return False
