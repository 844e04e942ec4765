"""What a fake adapter remembers: the registry's read face over a list in RAM."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from semshare_agents.errors import NotStoredError, PinError, nearest
from semshare_agents.values import BlockRef, Donor

if TYPE_CHECKING:
    from semshare_agents.registry import Forgotten, Pin
    from semshare_agents.registry.browsing import TurnRow
    from semshare_agents.registry.notes import Note, Noted


@dataclass(frozen=True)
class PastTurn:
    """A turn that is remembered.

    Attributes:
        id: Its number.
        at: When it was stored, in seconds since the epoch.
        tenant: Whose it is.
        session: Its session; None for stateless calls.
        messages: Its prompt's messages.
        answer: The answer as it was written.
        tokens: Ids of prompt and answer.
        prompt_tokens: How many of them are the prompt.
        report: Its report, as JSON, with `class`, `ttft_seconds` and the like.
    """

    id: int
    at: float
    tenant: str
    session: str | None
    messages: list[dict[str, Any]]
    answer: str
    tokens: list[int]
    prompt_tokens: int
    report: dict[str, Any]

    def goes_on_from(self, other: PastTurn) -> bool:
        """Whether its prompt holds another turn's prompt and answer as its history."""
        return self.id != other.id and self.tokens[: self.prompt_tokens][: len(other.tokens)] == other.tokens


class FakeMemory:
    """Past turns of a fake adapter; methods as those of `semshare_agents.registry.Registry`.

    Args:
        model: The model's name.
    """

    def __init__(self, model: str):
        self._model = model
        self._turns: dict[int, PastTurn] = {}
        self._last = 0
        self._notes: dict[int, dict[str, Any]] = {}
        self._forgets: list[tuple[str, str | None]] = []
        self._pins: dict[tuple[str, str | None, int | None], tuple[float, float | None]] = {}

    # --- turns

    def add(self, **values: Any) -> int:
        """Remember a turn, given as `PastTurn` but for id and time; returns its number."""
        self._last += 1
        self._turns[self._last] = PastTurn(id=self._last, at=time.time(), **values)
        return self._last

    @property
    def next_id(self) -> int:
        """The number that the next turn will have."""
        return self._last + 1

    def longest_prefix(self, tenant: str, prompt: Sequence[int]) -> tuple[Donor, int] | None:
        """The turn of a tenant that shares the longest prefix with a prompt, and how many tokens that is."""
        best, donor = 0, None
        for turn in self._turns.values():
            shared = _shared(prompt, turn.tokens) if turn.tenant == tenant else 0
            if shared > best:
                best, donor = shared, turn
        if donor is None:
            return None
        size = len(donor.tokens)
        blocks = (BlockRef(f"fake-{donor.id}", 0, size, size),)
        return Donor(donor.id, np.asarray(donor.tokens, np.int64), blocks, size), best

    async def history(self, tenant: str, session: str) -> list[dict[str, Any]]:
        """The messages of a session so far."""
        mine = [t for t in self._turns.values() if (t.tenant, t.session) == (tenant, session)]
        return [*mine[-1].messages, {"role": "assistant", "content": mine[-1].answer}] if mine else []

    async def forget(
        self, tenant: str, *, session: str | None = None, turn_id: int | None = None, dry_run: bool = False
    ) -> Forgotten:
        """Remove a tenant, or one of its sessions or turns, and the turns that go on from them.

        Raises:
            NotStoredError: it is not there.
        """
        from semshare_agents.registry import Forgotten

        self._check_stored(tenant, session, turn_id)
        mine = [turn for turn in self._turns.values() if turn.tenant == tenant]
        if turn_id is not None:
            gone = [turn for turn in mine if turn.id == turn_id]
        else:
            gone = [turn for turn in mine if session is None or turn.session == session]
        gone += [turn for turn in mine if turn not in gone and any(turn.goes_on_from(other) for other in gone)]
        keys, named = tuple(f"fake-{turn.id}" for turn in gone), tuple(sorted(turn.id for turn in gone))
        if dry_run:
            return Forgotten(named, keys)
        for turn in gone:
            del self._turns[turn.id]
            self._notes.pop(turn.id, None)
        whole = session is None and turn_id is None
        touched = {turn.session for turn in gone} | {session}
        self._forgets += [(tenant, name) for name in ([None] if whole else touched - {None})]
        # A pin of what is gone ends with it.
        self._pins = {key: times for key, times in self._pins.items() if key[0] != tenant or self._held(*key)}
        return Forgotten(named, keys)

    def _check_stored(self, tenant: str, session: str | None, turn_id: int | None) -> None:
        """Raise a `NotStoredError` for what is not there, with the nearest names."""
        mine = [turn for turn in self._turns.values() if turn.tenant == tenant]
        if not mine:
            tenants = dict.fromkeys(turn.tenant for turn in reversed(self._turns.values()))
            raise NotStoredError(f"there is no tenant {tenant!r}{nearest(list(tenants), tenant)}")
        sessions = list(dict.fromkeys(turn.session for turn in reversed(mine) if turn.session))
        if session is not None and session not in sessions:
            raise NotStoredError(f"tenant {tenant!r} has no session {session!r}{nearest(sessions, session)}")
        if turn_id is not None and all(turn.id != turn_id for turn in mine):
            raise NotStoredError(f"tenant {tenant!r} has no turn {turn_id}: `semshare turns` lists them")

    async def newest_forget(self) -> int:
        """The newest act of forgetting; 0 where there was none."""
        return len(self._forgets)

    async def forgotten(self, tenant: str, session: str | None, since: int) -> bool:
        """Whether a session was touched by an act of forgetting after `since`."""
        return any(acted == tenant and name in (None, session) for acted, name in self._forgets[since:])

    # --- notes

    def note(self, tenant: str, turn_id: int, values: Mapping[str, Any]) -> None:
        """Keep a note with a turn.

        Raises:
            NotStoredError: it is not there.
        """
        self._check_stored(tenant, None, turn_id)
        self._notes[turn_id] = json.loads(json.dumps(values))

    async def notes(self, tenant: str, session: str, after: int = 0) -> list[Note]:
        """Notes of a session's turns, oldest first."""
        from semshare_agents.registry.notes import Note

        mine = [t for t in self._turns.values() if (t.tenant, t.session) == (tenant, session) and t.id > after]
        return [Note(turn.id, self._notes[turn.id]) for turn in mine if turn.id in self._notes]

    async def noted(self, tenant: str, session: str, name: str) -> Noted | None:
        """The turn of a session whose note has the `id` name."""
        from semshare_agents.registry.notes import Noted

        for note in await self.notes(tenant, session):
            if note.values.get("id") == name:
                turn = self._turns[note.turn_id]
                return Noted(turn.id, note.values, [dict(m) for m in turn.messages], turn.answer)
        return None

    # --- looking at it

    async def browse(
        self, tenant: str, *, session: str | None = None, before: int | None = None, limit: int = 50
    ) -> list[TurnRow]:
        """A tenant's newest turns, newest first."""
        rows = [
            self._row(turn)
            for turn in reversed(self._turns.values())
            if turn.tenant == tenant and session in (None, turn.session) and (before is None or turn.id < before)
        ]
        return rows[:limit]

    async def turn(self, turn_id: int, tenant: str | None = None) -> tuple[TurnRow, Any] | None:
        """A turn and its tokens, prompt first; None where there is none."""
        turn = self._turns.get(turn_id)
        if turn is None or tenant not in (None, turn.tenant):
            return None
        return self._row(turn), np.asarray(turn.tokens, np.int32)

    async def sessions(self, tenant: str, limit: int = 50) -> list[dict[str, Any]]:
        """A tenant's sessions, the one used last first: `name`, `used_at`, `turns`."""
        found: dict[str, dict[str, Any]] = {}
        for turn in self._turns.values():
            if turn.tenant == tenant and turn.session is not None:
                counted = found.pop(turn.session, {"turns": 0})["turns"] + 1
                found[turn.session] = {"name": turn.session, "used_at": turn.at, "turns": counted}
        return list(reversed(found.values()))[:limit]

    async def drift_of(self, tenant: str) -> list[dict[str, Any]]:
        """Nothing drifts here."""
        return []

    def _row(self, turn: PastTurn) -> TurnRow:
        from semshare_agents.registry.browsing import TurnRow

        report = turn.report
        return TurnRow(
            id=turn.id,
            created_at=turn.at,
            tenant=turn.tenant,
            session=turn.session,
            model=self._model,
            reuse_class=report["class"],
            prompt_tokens=turn.prompt_tokens,
            exact_tokens=turn.prompt_tokens,
            ttft_seconds=report["ttft_seconds"],
            predicted_cold_seconds=report["predicted_cold_seconds"],
            report=json.dumps(report),
        )

    # --- pins

    def pin(self, tenant: str, session: str | None, turn_id: int | None, seconds: float | None) -> Pin:
        """Pin a session or a turn.

        Raises:
            PinError: it is not stored.
        """
        held = self._held(tenant, session, turn_id)
        if not held:
            name = f"session {session!r}" if turn_id is None else f"turn {turn_id}"
            raise PinError(f"tenant {tenant!r} has no {name}: pin it once it was stored")
        now = time.time()
        self._pins[tenant, session, turn_id] = (now, None if seconds is None else now + seconds)
        return self._told((tenant, session, turn_id))

    def unpin(self, tenant: str, session: str | None, turn_id: int | None) -> bool:
        """End a pin; whether there was one.

        Raises:
            NotStoredError: what is named is not there.
        """
        self._check_stored(tenant, session, turn_id)
        return self._pins.pop((tenant, session, turn_id), None) is not None

    async def pins(self, tenant: str) -> list[Pin]:
        """A tenant's pins, oldest first."""
        now = time.time()
        self._pins = {key: times for key, times in self._pins.items() if times[1] is None or times[1] > now}
        return [self._told(key) for key in self._pins if key[0] == tenant]

    def _told(self, key: tuple[str, str | None, int | None]) -> Pin:
        from semshare_agents.registry import Pin

        begins_at, ends_at = self._pins[key]
        return Pin(*key, begins_at, ends_at, len(self._held(*key)), 0)

    def _held(self, tenant: str, session: str | None, turn_id: int | None) -> list[PastTurn]:
        mine = [turn for turn in self._turns.values() if turn.tenant == tenant]
        return [t for t in mine if (t.session == session if turn_id is None else t.id == turn_id)]


def _shared(a: Sequence[int], b: Sequence[int]) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
