"""What is found, by which name and from where."""

from __future__ import annotations

from dataclasses import replace

import pytest

from semshare_agents.registry import Registry
from semshare_agents.registry import finding as queries
from semshare_agents.testing.registries.made import FINGERPRINT, SIZE, OpenRegistry, RegistryTests, block, turn
from semshare_agents.values import Scope


class Finding(RegistryTests):
    """What is found, by which name and from where."""

    async def test_an_empty_registry_knows_nothing(self, registry: Registry, scope: Scope) -> None:
        """Also where nothing is asked for."""
        assert await registry.find_chain(scope, []) == {}
        assert await registry.find_chain(scope, ["x"]) == {}
        assert await registry.find_branch(scope, "x") == []
        assert await registry.find_contents(scope, {}) == []
        assert await registry.find_similar(scope, [], 5) == []
        assert await registry.donors(scope, []) == []
        assert await registry.donors(scope, [1]) == []
        assert await registry.history("acme", "alice") == []
        assert (await registry.statistics())["blocks"] == 0
        assert await registry.unused() == []
        assert await registry.broken_links() == 0

    async def test_scopes_are_one_a_tenant_and_model(self, registry: Registry, opened: OpenRegistry) -> None:
        """The same for every process."""
        one = await registry.scope("acme", FINGERPRINT)
        assert await (await opened()).scope("acme", FINGERPRINT) == one
        others = [await registry.scope("other", FINGERPRINT), await registry.scope("acme", "e" * 64)]
        assert len({one.id, *(o.id for o in others)}) == 3
        assert len({one.hash_key, *(o.hash_key for o in others)}) == 3

    async def test_a_turn_is_found_by_all_its_names(self, registry: Registry, scope: Scope) -> None:
        """Chain, branch, content and signature lead to the turn; what comes back is what was stored."""
        parts = (block(0, "one"), block(SIZE, "two"))
        turn_id = await registry.add_turn(scope, turn(*parts, bands=(5, -7, 2**62), exact_tokens=5, depth=2))
        assert await registry.find_chain(scope, [parts[1].chain, "z"]) == {parts[1].chain: (turn_id, parts[1].key)}
        assert parts[0].branch is not None
        assert await registry.find_branch(scope, parts[0].branch) == [turn_id]
        assert parts[1].content is not None
        hits = await registry.find_contents(scope, {parts[1].content: [3, 9], 12345: [4]})
        assert sorted((h.at, h.turn_id, h.source) for h in hits) == [(3, turn_id, SIZE), (9, turn_id, SIZE)]
        assert await registry.find_similar(scope, [5, 2**62, 1], 5) == [(turn_id, 2)]
        (donor,) = await registry.donors(scope, [turn_id])
        assert donor.tokens.tolist() == list(range(2 * SIZE))
        assert [(b.key, b.start, b.length) for b in donor.blocks] == [(b.key, b.start, b.length) for b in parts]
        assert (donor.exact_tokens, donor.depth) == (5, 2)

    async def test_newer_turns_are_told_within_a_bound(self, registry: Registry, scope: Scope) -> None:
        """Oldest first, the newest in any case; another tenant's or model's are not, whatever its scope's id was."""
        ids = [await registry.add_turn(scope, turn(block(0, f"n{i}"), block(SIZE, f"m{i}"))) for i in range(4)]
        told = await registry.newer_tokens(scope, 0, 1000)
        assert [(i, tokens.tolist()) for i, tokens in told] == [(i, list(range(2 * SIZE))) for i in ids]
        for after, most, expected in (
            (ids[1], 1000, ids[2:]),
            (0, 2 * SIZE + 1, ids[2:]),
            (0, 1, ids[3:]),
            (ids[3], 9, []),
        ):
            assert [i for i, _ in await registry.newer_tokens(scope, after, most)] == expected
        for other in (replace(scope, tenant="other"), replace(scope, fingerprint="e" * 64), replace(scope, id=0)):
            assert await registry.newer_tokens(other, 0, 1000) == []
        assert await registry.newer_tokens(replace(scope, id=scope.id + 1, reads=(scope.id,)), 0, 1000) == []

    async def test_nothing_is_found_from_another_scope(self, registry: Registry, scope: Scope) -> None:
        """Neither another tenant's nor another model's, by any name or id."""
        part = block(0, "one")
        turn_id = await registry.add_turn(scope, turn(part, bands=(5,), session="alice"))
        assert part.branch is not None
        assert part.content is not None
        for tenant, fingerprint in (("other", FINGERPRINT), ("acme", "e" * 64)):
            other = await registry.scope(tenant, fingerprint)
            assert await registry.find_chain(other, [part.chain]) == {}
            assert await registry.find_branch(other, part.branch) == []
            assert await registry.find_contents(other, {part.content: [0]}) == []
            assert await registry.find_similar(other, [5], 5) == []
            assert await registry.donors(other, [turn_id]) == []
        assert await registry.history("other", "alice") == []

    async def test_sessions_go_on_where_they_left_off(self, registry: Registry, scope: Scope) -> None:
        """The newest turn's messages and answer; any character survives but the one that PostgreSQL lacks."""
        text = "naïve 😀 'quoted' \"x\" \\ \n"
        await registry.add_turn(scope, turn(session="alice", answer="older"))
        messages = [{"role": "user", "content": f"{text}\x00"}]
        await registry.add_turn(scope, turn(session="alice", messages=messages, answer=f"{text}\x00!"))
        await registry.add_turn(scope, turn(session="bob"))
        assert await registry.history("acme", "alice") == [
            *messages,
            {"role": "assistant", "content": f"{text}\ufffd!"},
        ]
        assert (await registry.statistics())["sessions"] == 2

    async def test_long_lists_are_one_statement(self, registry: Registry, scope: Scope) -> None:
        """A long prompt has tens of thousands of windows."""
        turn_id = await registry.add_turn(scope, turn(block(0, "one", content=77), bands=(7,)))
        windows = {value: [value] for value in range(70_000)}
        assert [(h.at, h.turn_id) for h in await registry.find_contents(scope, windows)] == [(77, turn_id)]
        assert await registry.find_chain(scope, [f"{n:032x}" for n in range(40_000)]) == {}
        assert await registry.find_similar(scope, range(40_000), 3) == [(turn_id, 1)]

    async def test_similar_turns_come_best_first_then_newest(self, registry: Registry, scope: Scope) -> None:
        """At most as many as asked for."""
        ids = [await registry.add_turn(scope, turn(block(0, f"t{n}"), bands=tuple(range(n)))) for n in (1, 3, 2, 3)]
        expected = [(ids[3], 3), (ids[1], 3), (ids[2], 2), (ids[0], 1)]
        assert await registry.find_similar(scope, range(10), 10) == expected
        assert await registry.find_similar(scope, range(10), 2) == expected[:2]

    async def test_of_a_common_band_the_newest_turns_count(
        self, registry: Registry, scope: Scope, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """And an older turn is still found by its rare bands."""
        monkeypatch.setattr(queries, "TURNS_PER_BAND", 3)
        ids = [await registry.add_turn(scope, turn(block(0, f"t{n}"), bands=(1, 100 + n))) for n in range(6)]
        assert await registry.find_similar(scope, [1], 10) == [(i, 1) for i in ids[:2:-1]]
        assert await registry.find_similar(scope, [1, 100], 1) == [(ids[5], 1)]
        assert (ids[0], 1) in await registry.find_similar(scope, [1, 100], 10)

    async def test_a_superseded_turn_is_no_candidate(self, registry: Registry, scope: Scope) -> None:
        """Its signature goes; its blocks stay."""
        old = await registry.add_turn(scope, turn(block(0, "one"), bands=(1, 2)))
        new = await registry.add_turn(scope, turn(block(0, "two"), bands=(1, 2), superseded=old))
        assert await registry.find_similar(scope, [1, 2], 5) == [(new, 2)]
        assert len(await registry.donors(scope, [old])) == 1
