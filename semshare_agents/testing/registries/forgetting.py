"""Forgetting: what goes, and what was under way."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from semshare_agents.errors import ForgottenError
from semshare_agents.registry import DriftSample, Registry
from semshare_agents.testing.registries.made import FINGERPRINT, SIZE, OpenRegistry, RegistryTests, block, turn
from semshare_agents.values import Scope


class Forgetting(RegistryTests):
    """Forgetting: what goes, and what was under way."""

    @pytest.mark.parametrize("what", [{"session": "alice"}, {"turn_id": 1}, {}])
    async def test_forgetting_ends_pins(self, registry: Registry, scope: Scope, what: dict[str, Any]) -> None:
        """Of what is forgotten, and no others."""
        first = await registry.add_turn(scope, turn(block(0, "one"), session="alice"))
        other = turn(block(0, "two"), session="bob", messages=[{"role": "user", "content": "else"}])
        await registry.add_turn(scope, other)
        for pinned in ({"session": "alice"}, {"turn_id": first}, {"session": "bob"}):
            await registry.pin("acme", **pinned)
        await registry.forget("acme", **what)
        assert [p.session for p in await registry.pins()] == (["bob"] if what else [])
        assert await registry.broken_links() == 0

    async def test_a_forgotten_turn_leaves_what_others_share(self, registry: Registry, scope: Scope) -> None:
        """And of a block that is longer than what they share, nothing."""
        shared, longer = block(0, "one"), block(SIZE, "two")
        first = await registry.add_turn(scope, turn(shared, longer, bands=(5,), session="alice"))
        part = replace(longer, length=SIZE - 1, known=True)
        other = turn(replace(shared, known=True), part, session="bob", messages=[{"role": "user", "content": "else"}])
        second = await registry.add_turn(scope, other)
        found = await registry.forget("acme", turn_id=first)
        assert (found.turn_ids, found.keys) == ((first,), (longer.key,))
        assert await registry.find_chain(scope, [shared.chain, longer.chain]) == {shared.chain: (second, shared.key)}
        assert await registry.find_similar(scope, [5], 5) == []
        assert await registry.history("acme", "alice") == []
        assert [s["name"] for s in await registry.sessions("acme")] == ["bob"]
        assert await registry.forgotten_keys() == [longer.key]
        assert await registry.broken_links() == 0
        assert await registry.unerased() == 1
        await registry.erase()
        assert await registry.unerased() == 0

    async def test_what_was_under_way_when_it_was_forgotten_is_refused(
        self, registry: Registry, opened: OpenRegistry
    ) -> None:
        """A turn, its repair and its samples; of other sessions and tenants nothing is."""
        scope, theirs = await registry.scope("acme", FINGERPRINT), await registry.scope("other", FINGERPRINT)
        turn_id = await registry.add_turn(scope, turn(block(0, "one"), session="alice"))
        await (await opened()).forget("acme", session="alice")
        with pytest.raises(ForgottenError):
            await registry.add_turn(scope, turn(block(0, "two"), session="alice"))
        with pytest.raises(ForgottenError):
            await registry.repaired(scope, turn_id, [block(0, "three")], SIZE, True)
        with pytest.raises(ForgottenError):
            await registry.add_drift(scope, DriftSample(turn_id, "moved", 0.1, 1.0, 3))
        await registry.add_turn(scope, turn(block(0, "four"), session="bob"))
        await registry.add_turn(theirs, turn(block(0, "five"), session="alice"))
        await (await opened()).forget("acme")
        with pytest.raises(ForgottenError):
            await registry.add_turn(scope, turn(block(0, "six"), session="bob"))
        fresh = await registry.scope("acme", FINGERPRINT)
        assert await registry.add_turn(fresh, turn(block(0, "seven"), session="alice")) > turn_id
        assert [r.tenant for r in await registry.turns()] == ["acme", "other"]
