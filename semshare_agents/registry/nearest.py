"""Names that are like one that was misspelt."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches


def nearest(known: Sequence[str], name: str) -> str:
    """The end of a message that says that a name is not known: which one may be meant.

    Args:
        known: What there is, the likeliest first.
        name: What was said.
    """
    folded = {known_name.casefold(): known_name for known_name in reversed(known)}
    near = [folded[match] for match in get_close_matches(name.casefold(), folded, n=3)]
    if near:
        return f"; is it {' or '.join(map(repr, near))}?"
    return "; none of its names is like it" if known else "; nothing is stored yet"
