"""Notes of integrations."""

from __future__ import annotations

import pytest

from semshare_agents.errors import NotStoredError
from semshare_agents.registry import Registry
from semshare_agents.testing.registries.made import OpenRegistry, RegistryTests, block, turn
from semshare_agents.values import Scope


class Notes(RegistryTests):
    """Notes are found in their session, belong to their tenant, and go with their turn."""

    async def test_a_note_is_found_and_replaced_in_its_session(
        self, registry: Registry, scope: Scope, opened: OpenRegistry
    ) -> None:
        """By every process."""
        first = await registry.add_turn(scope, turn(block(0, "one"), session="talk"))
        second = await registry.add_turn(scope, turn(block(0, "two"), session="talk"))
        await registry.note("acme", first, {"id": "a", "text": "old"})
        await registry.note("acme", first, {"id": "a", "text": "x\x00y"})
        await registry.note("acme", second, {"id": "b"})
        other = await opened()
        found = await other.noted("acme", "talk", "a")
        assert found is not None
        assert (found.turn_id, found.values, found.answer) == (first, {"id": "a", "text": "x\x00y"}, "yes")
        assert found.messages == [{"role": "user", "content": "hello"}]
        assert [note.turn_id for note in await other.notes("acme", "talk")] == [first, second]
        assert [note.turn_id for note in await other.notes("acme", "talk", after=first)] == [second]
        assert await other.noted("acme", "other", "a") is None
        assert await other.noted("bolt", "talk", "a") is None

    async def test_a_note_is_found_among_many(self, registry: Registry, scope: Scope) -> None:
        """However many turns a session has."""
        ids = [await registry.add_turn(scope, turn(block(0, f"n{i}"), session="talk")) for i in range(70)]
        await registry.note("acme", ids[0], {"id": "a"})
        found = await registry.noted("acme", "talk", "a")
        assert found is not None
        assert found.turn_id == ids[0]

    async def test_a_note_is_its_tenant_s_and_goes_with_its_turn(self, registry: Registry, scope: Scope) -> None:
        """Nothing of it is left."""
        mine = await registry.add_turn(scope, turn(block(0, "one"), session="talk"))
        with pytest.raises(NotStoredError):
            await registry.note("bolt", mine, {"id": "a"})
        await registry.note("acme", mine, {"id": "a"})
        (row,) = await registry.browse("acme")
        assert "note" not in row.report
        await registry.forget("acme", turn_id=mine)
        assert await registry.noted("acme", "talk", "a") is None
        with pytest.raises(NotStoredError):
            await registry.note("acme", mine, {"id": "a"})
