"""Conversations that will not soon go on go first, whole."""

from __future__ import annotations

from collections import Counter, OrderedDict, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

from semshare_agents.evict.base import Entry, EvictionPolicy, Use
from semshare_agents.evict.returns import Returns, bucket
from semshare_agents.values import Floats

MOST_SESSIONS = 4096
LEARN_TURNS = 50
RANKED_SECONDS = 1.0
PROTECTED_SHARE = 0.25


@dataclass
class Talk:
    """A conversation, or one stateless call.

    Attributes:
        turns: Turns seen; 0 for a stateless call.
        used_at: When the last of them was.
        entries: Its blocks that are kept.
        size_bytes: Of these.
        seconds: What they save.
    """

    turns: int = 0
    used_at: float = 0.0
    entries: dict[str, Entry] = field(default_factory=dict)
    size_bytes: int = 0
    seconds: float = 0.0


class SessionAware(EvictionPolicy):
    """Keeps the conversations whose bytes will save most seconds soonest, as `Returns` learns when they go on.

    A block that several share goes with the last of them. Of one conversation the deepest blocks go first, since none
    is of use without those before it; where moved text may be reused, the middle goes before beginning and end: it is
    cheaper to compute than the end, and a trimmed history loses it first.

    Args:
        moved: Whether blocks are of use without those before them.
    """

    def __init__(self, moved: bool = False) -> None:
        self._moved = moved
        self._returns = Returns()
        self._indices: Floats = self._returns.indices([])
        self._talks: OrderedDict[str, Talk] = OrderedDict()
        self._users: defaultdict[str, dict[str, None]] = defaultdict(dict)
        self._entries: dict[str, Entry] = {}
        self._seen = 0
        self._current: tuple[str, float] | None = None
        self._ranked: tuple[float, list[str]] | None = None

    def added(self, entry: Entry, use: Use) -> None:
        """See `EvictionPolicy.added`."""
        self._entries.setdefault(entry.key, entry)
        self.used(entry.key, use)

    def used(self, key: str, use: Use) -> None:
        """See `EvictionPolicy.used`."""
        if key not in self._entries:
            return
        name = use.session or f"\0{use.at}"
        if self._current is None or self._current[0] != name or use.at - self._current[1] > RANKED_SECONDS:
            self._turn(name, use)
        talk, entry = self._talks[name], self._entries[key]
        if key not in talk.entries:
            talk.entries[key] = entry
            talk.size_bytes += entry.size_bytes
            talk.seconds += entry.seconds_per_byte * entry.size_bytes
            self._users[key][name] = None

    def _turn(self, name: str, use: Use) -> None:
        """A conversation goes on, or begins."""
        talk = self._talks.setdefault(name, Talk())
        if talk.turns:
            self._returns.saw(talk.turns, use.at - talk.used_at, returned=True)
        talk.turns += 1 if use.session else 0
        talk.used_at = use.at
        self._talks.move_to_end(name)
        self._current, self._ranked = (name, use.at), None
        self._seen += 1
        if self._seen % LEARN_TURNS == 0:
            self._learn(use.at)

    def _learn(self, at: float) -> None:
        for name in [n for n, talk in self._talks.items() if not talk.entries][
            : max(0, len(self._talks) - MOST_SESSIONS)
        ]:
            gone = self._talks.pop(name)
            self._returns.saw(gone.turns, at - gone.used_at, returned=False)
        self._indices = self._returns.indices([(t.turns, at - t.used_at) for t in self._talks.values()])

    def removed(self, key: str) -> None:
        """See `EvictionPolicy.removed`."""
        entry = self._entries.pop(key, None)
        if entry is None:
            return
        for name in self._users.pop(key):
            talk = self._talks[name]
            del talk.entries[key]
            talk.size_bytes -= entry.size_bytes
            talk.seconds -= entry.seconds_per_byte * entry.size_bytes

    def candidates(self, at: float) -> Iterator[str]:
        """See `EvictionPolicy.candidates`."""
        if self._ranked is None or at - self._ranked[0] > RANKED_SECONDS:
            kept = [name for name, talk in self._talks.items() if talk.entries]
            self._ranked = at, sorted(kept, key=lambda name: self._worth(self._talks[name], at))
        yielded: Counter[str] = Counter()
        for name in self._ranked[1]:
            for key in self._dispensable(self._talks[name]):
                yielded[key] += 1
                if yielded[key] == len(self._users[key]):
                    yield key

    def _worth(self, talk: Talk, at: float) -> float:
        """Seconds that a byte of it saves in a second."""
        row = min(talk.turns, len(self._indices) - 1)
        return float(self._indices[row, bucket(at - talk.used_at)]) * talk.seconds / talk.size_bytes

    def _dispensable(self, talk: Talk) -> list[str]:
        keys = sorted(talk.entries, key=lambda key: talk.entries[key].depth)
        if not self._moved:
            return keys[::-1]
        edge = -(-len(keys) * PROTECTED_SHARE // 1)
        head, end = int(edge), len(keys) - int(edge)
        return [*keys[head:end][::-1], *keys[max(head, end) :], *keys[:head][::-1]]
