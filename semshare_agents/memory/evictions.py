"""What tiers let go, as the registry has to know it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from semshare_agents.store.tier import Eviction
from semshare_agents.store.tiers import Tiers


@dataclass(frozen=True)
class Evictions:
    """Departures by tier and reason, one event for each.

    Attributes:
        gone: Keys of blocks that are nowhere any more.
        demoted: Keys of blocks that a tier still has, with their tokens.
    """

    gone: dict[str, list[str]] = field(default_factory=dict)
    demoted: dict[str, dict[str, int]] = field(default_factory=dict)


def evictions(tiers: Tiers, evictions: Sequence[Eviction]) -> Evictions:
    """Tell blocks that are gone from those that a tier still has.

    What left the disk is gone, also where RAM still has it or brought it back: its row promises every process a file,
    and processes that saw it leave remove what they have of it.
    """
    found, durable = Evictions(), tiers.durable
    for left in evictions:
        why = f"{left.tier}: {left.reason}"
        from_disk = durable is not None and left.tier == durable.name
        if not from_disk and tiers.anywhere(left.key):
            found.demoted.setdefault(why, {})[left.key] = left.entry.tokens
        elif left.key not in found.gone.setdefault(why, []):
            found.gone[why].append(left.key)
    return found
