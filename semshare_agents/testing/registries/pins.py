"""Pins: what they hold, and until when."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace

import pytest

from semshare_agents.errors import NotStoredError, PinError
from semshare_agents.registry import PinnedBlock, Registry, pinning
from semshare_agents.testing.registries.made import FINGERPRINT, SIZE, OpenRegistry, RegistryTests, block, turn
from semshare_agents.values import Scope


class Pins(RegistryTests):
    """Pins: what they hold, and until when."""

    async def test_pins_hold_the_blocks_of_sessions_and_turns(
        self, registry: Registry, opened: OpenRegistry, scope: Scope
    ) -> None:
        """Of a session also those of its later turns; every process knows, and a longer pin wins."""
        first, second, other = block(0, "one"), block(SIZE, "two"), block(0, "three")
        await registry.add_turn(scope, turn(first, session="alice"))
        loose = await registry.add_turn(scope, turn(other))
        assert await registry.pinned_blocks() == []
        pinned = await registry.pin("acme", session="alice", seconds=1000.0)
        assert (pinned.tenant, pinned.session, pinned.turn_id, pinned.blocks) == ("acme", "alice", None, 1)
        assert pinned.ends_at == pinned.begins_at + 1000.0
        await registry.add_turn(scope, turn(replace(first, known=True), second, session="alice"))
        await registry.pin("acme", turn_id=loose)
        elsewhere = await opened()
        ends = {b.key: b.ends_at for b in await elsewhere.pinned_blocks()}
        assert ends == {first.key: pinned.ends_at, second.key: pinned.ends_at, other.key: float("inf")}
        assert {b.size_bytes for b in await elsewhere.pinned_blocks()} == {10}
        assert [(p.session, p.turn_id, p.blocks, p.size_bytes) for p in await elsewhere.pins("acme")] == [
            ("alice", None, 2, 20),
            (None, loose, 1, 10),
        ]
        again = await registry.pin("acme", session="alice")
        assert (again.ends_at, len(await registry.pins())) == (None, 2)
        await registry.pin("acme", turn_id=loose, seconds=1.0)
        assert await elsewhere.unpin("acme", session="alice")
        assert not await elsewhere.unpin("acme", session="alice")
        assert [p.turn_id for p in await registry.pins()] == [loose]

    async def test_pins_end_by_the_clock_and_a_clock_set_back_starts_them_anew(
        self, registry: Registry, scope: Scope, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """They never last longer than they were given for, from when the clock was right."""
        part = block(0, "one")
        await registry.add_turn(scope, turn(part, session="alice"))
        clock = SimpleNamespace(now=5000.0)
        monkeypatch.setattr(pinning, "time", SimpleNamespace(time=lambda: clock.now))
        await registry.pin("acme", session="alice", seconds=60.0)
        clock.now = 5059.0
        assert [b.key for b in await registry.pinned_blocks()] == [part.key]
        clock.now = 1000.0
        assert [b.ends_at for b in await registry.pinned_blocks()] == [1060.0]
        clock.now = 1060.0
        assert (await registry.pinned_blocks(), await registry.pins()) == ([], [])
        assert not await registry.unpin("acme", session="alice")
        turn_id = await registry.add_turn(scope, turn(block(0, "two")))
        await registry.pin("acme", turn_id=turn_id)
        clock.now = 10.0
        assert [b.ends_at for b in await registry.pinned_blocks()] == [float("inf")]
        assert [p.turn_id for p in await registry.pins()] == [turn_id]

    async def test_pins_are_a_tenant_s_own(self, registry: Registry, opened: OpenRegistry) -> None:
        """Also in a pool: what another member stored is not held; what is not there or refused leaves no pin."""
        pool = await opened(pools={"all": ("acme", "other")})
        scope, theirs = await pool.scope("acme", FINGERPRINT), await pool.scope("other", FINGERPRINT)
        shared, own = block(0, "one"), block(SIZE, "two")
        foreign = await pool.add_turn(theirs, turn(shared, session="bob"))
        mine = await pool.add_turn(scope, turn(replace(shared, known=True), own, session="alice"))
        for whose, what in (
            ("acme", {"turn_id": foreign}),
            ("other", {"turn_id": mine}),
            ("other", {"session": "alice"}),
        ):
            with pytest.raises(PinError, match="has no"):
                await pool.pin(whose, **what)
        assert (await pool.pin("acme", turn_id=mine)).blocks == 1
        assert [(b.key, b.tenant) for b in await pool.pinned_blocks()] == [(own.key, "acme")]
        with pytest.raises(NotStoredError):
            await pool.unpin("other", turn_id=mine)
        assert await pool.pins("other") == []

        def refuse(pinned: Sequence[PinnedBlock]) -> None:
            raise PinError(f"{len(pinned)} blocks")

        with pytest.raises(PinError, match="2 blocks"):
            await registry.pin("other", session="bob", check=refuse)
        assert [p.turn_id for p in await registry.pins()] == [mine]
