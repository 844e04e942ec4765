"""Blocks: shared, held, dropped, replaced."""

from __future__ import annotations

from semshare_agents.registry import Registry
from semshare_agents.testing.registries.made import SIZE, OpenRegistry, RegistryTests, block, turn
from semshare_agents.values import Scope


class Blocks(RegistryTests):
    """Blocks: shared, held, dropped, replaced."""

    async def test_blocks_are_shared_between_turns(self, registry: Registry, scope: Scope) -> None:
        """A known block is linked, not stored again; the newest turn that has it answers for it."""
        first = block(0, "one")
        await registry.add_turn(scope, turn(first))
        again = block(0, "one", key=first.key, known=True)
        newer = await registry.add_turn(scope, turn(again, block(SIZE, "two")))
        assert (await registry.statistics())["blocks"] == 2
        assert first.branch is not None
        assert await registry.find_branch(scope, first.branch) == [newer]

    async def test_a_block_in_ram_is_its_process_s_own(
        self, registry: Registry, opened: OpenRegistry, scope: Scope
    ) -> None:
        """Until its file is there."""
        part, other = block(0, "one", size_bytes=3), await opened()
        turn_id = await registry.add_turn(scope, turn(part))
        assert await registry.donors(scope, [turn_id])
        assert await other.donors(scope, [turn_id]) == []
        assert await other.find_chain(scope, [part.chain]) == {}
        assert await other.foreign() == [part.key]
        assert await other.blocks() == []
        await registry.made_durable([part.key])
        assert len(await other.donors(scope, [turn_id])) == 1
        assert [(info.key, durable) for info, durable in await other.blocks()] == [(part.key, True)]
        assert await other.foreign() == []

    async def test_dropped_blocks_are_gone_and_turns_keep_their_text(self, registry: Registry, scope: Scope) -> None:
        """The event says why; unknown keys are ignored."""
        parts = (block(0, "one"), block(SIZE, "two"))
        turn_id = await registry.add_turn(scope, turn(*parts, session="alice"))
        assert await registry.drop_blocks([parts[0].key, "unknown"], "evict", "budget") == 1
        assert await registry.drop_blocks([parts[0].key], "evict", "budget") == 0
        (donor,) = await registry.donors(scope, [turn_id])
        assert [b.key for b in donor.blocks] == [parts[1].key]
        assert (await registry.statistics())["tokens_by_event"]["evict"] == SIZE
        assert len(await registry.history("acme", "alice")) == 2

    async def test_a_longer_block_takes_the_place_of_a_shorter(self, registry: Registry, scope: Scope) -> None:
        """For every turn that used it; only where both are known."""
        short, long = block(0, "one", length=2), block(0, "longer")
        old = await registry.add_turn(scope, turn(short))
        await registry.add_turn(scope, turn(long))
        assert not await registry.supersede(short.key, "unknown")
        assert await registry.supersede(short.key, long.key)
        (donor,) = await registry.donors(scope, [old])
        assert [(b.key, b.length, b.stored_tokens) for b in donor.blocks] == [(long.key, 2, SIZE)]
        assert await registry.unused() == []

    async def test_repaired_blocks_take_the_place_of_approximate_ones(self, registry: Registry, scope: Scope) -> None:
        """Those that another turn uses stay, the others' keys come back."""
        shared, own = block(0, "one"), block(SIZE, "two")
        mine = await registry.add_turn(scope, turn(shared, own, exact_tokens=0, depth=1))
        twin = block(0, "one", key=shared.key, known=True)
        other = await registry.add_turn(scope, turn(twin, exact_tokens=0, depth=1))
        better = (block(0, "ONE"), block(SIZE, "TWO"))
        assert await registry.repaired(scope, mine, better, 2 * SIZE, finished=True) == [own.key]
        donors = {d.turn_id: d for d in await registry.donors(scope, [mine, other])}
        assert [b.key for b in donors[mine].blocks] == [b.key for b in better]
        assert (donors[mine].exact_tokens, donors[mine].depth) == (2 * SIZE, 0)
        assert [b.key for b in donors[other].blocks] == [shared.key]
        assert (await registry.find_chain(scope, [shared.chain]))[shared.chain][0] == other

    async def test_ids_are_never_used_twice(self, registry: Registry, scope: Scope) -> None:
        """A key that came back would serve another turn's KV."""
        part = block(0, "one")
        first = await registry.add_turn(scope, turn(part))
        await registry.drop_blocks([part.key], "evict", "budget")
        assert await registry.add_turn(scope, turn(block(0, "two"))) > first
