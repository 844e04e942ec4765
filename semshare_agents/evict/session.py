"""Conversations that will not soon go on go first, whole."""

from __future__ import annotations

import math
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

    def add(self, entry: Entry) -> None:
        """A block is kept."""
        self.entries[entry.key] = entry
        self.size_bytes += entry.size_bytes
        self.seconds += entry.seconds_per_byte * entry.size_bytes

    def remove(self, entry: Entry) -> None:
        """A block is gone."""
        del self.entries[entry.key]
        self.size_bytes -= entry.size_bytes
        self.seconds -= entry.seconds_per_byte * entry.size_bytes


@dataclass
class _Ranked:
    """An order as it was at one time; what came later comes last.

    Attributes:
        at: When; the beginning of time for none.
        keys: Most dispensable first.
        known: The same as a set.
        gone: How many of the first are known to be gone.
        later: What came later.
    """

    at: float = -math.inf
    keys: list[str] = field(default_factory=list)
    known: set[str] = field(default_factory=set)
    gone: int = 0
    later: dict[str, None] = field(default_factory=dict)


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
        self._current = ("", 0.0)
        self._ranked = _Ranked()

    def added(self, entry: Entry, use: Use) -> None:
        """See `EvictionPolicy.added`."""
        if self._entries.setdefault(entry.key, entry) is entry and entry.key not in self._ranked.known:
            self._ranked.later[entry.key] = None
        self.used(entry.key, use)

    def used(self, key: str, use: Use) -> None:
        """See `EvictionPolicy.used`."""
        if key not in self._entries:
            return
        name = use.session or f"\0{use.at}"
        if name not in self._talks or self._current[0] != name or use.at - self._current[1] > RANKED_SECONDS:
            self._turn(name, use)
        talk, entry, users = self._talks[name], self._entries[key], self._users[key]
        if key not in talk.entries:
            # One stateless call stands for all: nothing tells them apart, and nobody would count them.
            for other in [u for u in users if not (use.session or self._talks[u].turns)]:
                self._leave(other, entry)
            talk.add(entry)
            users[name] = None

    def _leave(self, name: str, entry: Entry) -> None:
        """A conversation no longer counts as a user of a block."""
        talk = self._talks[name]
        talk.remove(entry)
        del self._users[entry.key][name]
        if not (talk.entries or talk.turns):
            del self._talks[name]

    def _turn(self, name: str, use: Use) -> None:
        """A conversation goes on, or begins."""
        talk = self._talks.setdefault(name, Talk())
        if talk.turns:
            self._returns.saw(talk.turns, use.at - talk.used_at, returned=True)
        talk.turns += 1 if use.session else 0
        talk.used_at = use.at
        self._talks.move_to_end(name)
        self._current, self._ranked = (name, use.at), _Ranked()
        self._seen += 1
        if self._seen % LEARN_TURNS == 0:
            self._learn(use.at)

    def _learn(self, at: float) -> None:
        """Learn from the pauses so far, and give up the conversations that were quiet longest."""
        for name in list(self._talks)[: max(0, len(self._talks) - MOST_SESSIONS)]:
            talk = self._talks[name]
            for entry in [e for key, e in talk.entries.items() if len(self._users[key]) > 1]:
                self._leave(name, entry)
            if not talk.entries and name in self._talks:
                del self._talks[name]
                self._returns.saw(talk.turns, at - talk.used_at, returned=False)
        self._indices = self._returns.indices([(t.turns, at - t.used_at) for t in self._talks.values()])

    def removed(self, key: str) -> None:
        """See `EvictionPolicy.removed`."""
        entry = self._entries.pop(key, None)
        if entry is not None:
            for name in list(self._users[key]):
                self._leave(name, entry)
            del self._users[key]
            self._ranked.later.pop(key, None)

    def candidates(self, at: float) -> Iterator[str]:
        """See `EvictionPolicy.candidates`."""
        if abs(at - self._ranked.at) > RANKED_SECONDS:
            keys = list(self._in_order(at))
            self._ranked = _Ranked(at, keys, set(keys))
        ranked = self._ranked
        while ranked.gone < len(ranked.keys) and ranked.keys[ranked.gone] not in self._entries:
            ranked.gone += 1
        yield from (ranked.keys[i] for i in range(ranked.gone, len(ranked.keys)) if ranked.keys[i] in self._entries)
        yield from ranked.later

    def _in_order(self, at: float) -> Iterator[str]:
        kept = [talk for talk in self._talks.values() if talk.entries]
        yielded: Counter[str] = Counter()
        for talk in sorted(kept, key=lambda talk: self._worth(talk, at)):
            for key in self._dispensable(talk):
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
        head = math.ceil(len(keys) * PROTECTED_SHARE)
        end = len(keys) - head
        return [*keys[head:end][::-1], *keys[max(head, end) :], *keys[:head][::-1]]
