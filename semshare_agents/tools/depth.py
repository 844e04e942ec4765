"""How deep JSON values are nested. Whoever walks a value by recursion asks here first."""

from __future__ import annotations

from collections.abc import Mapping

MOST_NESTED = 100
"""Deeper values are refused: Python's own JSON reader and every template give up at some depth below 1,000."""


def too_deep(value: object, most: int = MOST_NESTED) -> bool:
    """Whether lists and mappings are nested deeper than `most`; never by recursion."""
    level, depth = [value], 0
    while level:
        inner: list[object] = []
        for item in level:
            if isinstance(item, Mapping):
                inner += item.values()
            elif isinstance(item, list | tuple):
                inner += item
        level = [item for item in inner if type(item) is not str and isinstance(item, Mapping | list | tuple)]
        depth += 1
        if depth >= most and level:
            return True
    return False
