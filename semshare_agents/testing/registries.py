"""What every registry database must do. The tests are coroutines: run them with pytest-asyncio in auto mode."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import numpy as np
import pytest

from semshare_agents.errors import ForgottenError, NotStoredError, PinError
from semshare_agents.registry import DriftSample, Limit, NewBlock, NewTurn, PinnedBlock, Registry, pinning
from semshare_agents.registry import finding as queries
from semshare_agents.values import Report, Reuse, Scope

SIZE = 4
FINGERPRINT = "f" * 64
OpenRegistry = Callable[..., Awaitable[Registry]]


def block(start: int, name: str, **more: Any) -> NewBlock:
    """A block of four tokens, named after its text."""
    number = int.from_bytes(name.encode()[:7], "little")
    values: dict[str, Any] = {
        "start": start,
        "length": SIZE,
        "chain": name.ljust(32, "0"),
        "branch": f"b{name}".ljust(32, "0"),
        "content": -number,
        "key": uuid4().hex,
        "size_bytes": 10,
        "known": False,
    }
    return NewBlock(**{**values, **more})


def turn(*blocks: NewBlock, **more: Any) -> NewTurn:
    """A turn of these blocks that ran cold."""
    tokens = np.arange(sum(b.length for b in blocks), dtype=np.int64)
    counts = {"computed": len(tokens), "exact": 0, "moved": 0, "semantic": 0}
    report = Report("cold", counts, 1.0, {}, 0.0, 0, {}, 0.5, 1.0, "nothing like it")
    values: dict[str, Any] = {
        "tokens": tokens,
        "blocks": blocks,
        "bands": (),
        "messages": [{"role": "user", "content": "hello"}],
        "answer": "yes",
        "report": report,
        "prompt_tokens": len(tokens),
        "exact_tokens": len(tokens),
    }
    return NewTurn(**{**values, **more})


class RegistryConformance:
    """Tests of the registry on one kind of database. Derive from it and give a fixture `url` of an empty database."""

    @pytest.fixture
    async def opened(self, url: str) -> AsyncIterator[OpenRegistry]:
        """Opens the database, as often as wanted; each stands for a process of its own."""
        async with AsyncExitStack() as stack:

            async def open_one(**options: Any) -> Registry:
                registry = await Registry.open(url, **options)
                stack.push_async_callback(registry.close)
                return registry

            yield open_one

    @pytest.fixture
    async def registry(self, opened: OpenRegistry) -> Registry:
        """An open, empty registry."""
        return await opened()

    @pytest.fixture
    async def scope(self, registry: Registry) -> Scope:
        """A tenant's scope."""
        return await registry.scope("acme", FINGERPRINT)

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
        assert len({one.seed, *(o.seed for o in others)}) == 3

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

    async def test_a_failing_turn_leaves_nothing(self, registry: Registry, scope: Scope) -> None:
        """A key that is taken makes the whole transaction void."""
        part = block(0, "one")
        await registry.add_turn(scope, turn(part))
        before = await registry.statistics()
        with pytest.raises(Exception, match="registry"):
            await registry.add_turn(scope, turn(block(0, "two"), block(SIZE, "x", key=part.key), session="new"))
        assert await registry.statistics() == before

    async def test_the_logs_are_bounded(self, opened: OpenRegistry) -> None:
        """The newest events and samples stay."""
        registry = await opened(event_rows=5)
        scope = await registry.scope("acme", FINGERPRINT)
        ids = [await registry.add_turn(scope, turn(session="alice")) for _ in range(12)]
        for n, turn_id in enumerate(ids):
            await registry.add_drift(scope, DriftSample(turn_id, "moved", n / 100, 1.0, 8))
        async with registry._reading() as c:
            for table in ("events", "guard_samples"):
                rows = (await c.exec_driver_sql(f"SELECT turn_id FROM {table} ORDER BY id")).scalars().all()
                assert rows == ids[-5:]

    async def test_the_guard_s_books(self, registry: Registry, scope: Scope) -> None:
        """Samples newest last, by session or all; one limit each."""
        one = await registry.add_turn(scope, turn(session="alice"))
        two = await registry.add_turn(scope, turn(session="bob"))
        for turn_id, kl in ((one, 0.1), (two, 0.2), (one, 0.3)):
            await registry.add_drift(scope, DriftSample(turn_id, "moved", kl, 0.9, 8))
        assert await registry.drift(scope, None, "moved", 0.0, 2) == [0.2, 0.3]
        assert await registry.drift(scope, "alice", "moved", 0.0, 5) == [0.1, 0.3]
        assert await registry.drift(scope, None, "semantic", 0.0, 5) == []
        for limit in (Limit(Reuse.EXACT, "far off", 5.0), Limit(Reuse.MOVED, "better", 6.0)):
            await registry.set_limit(scope, "alice", limit, "narrow", one)
        await registry.set_limit(scope, None, Limit(Reuse.EXACT, "all", 7.0), "narrow", one)
        limits = await registry.limits(scope)
        assert limits == {"alice": Limit(Reuse.MOVED, "better", 6.0), None: Limit(Reuse.EXACT, "all", 7.0)}
        assert (await registry.guard_statistics())["samples"]["moved"]["samples"] == 3

    async def test_processes_may_write_at_once(self, opened: OpenRegistry) -> None:
        """New tenants, shared blocks, drops and takeovers from several sides: no error, no broken link."""
        registries = [await opened() for _ in range(3)]
        shared = block(0, "shared")
        scope = await registries[0].scope("acme", FINGERPRINT)
        await registries[0].add_turn(scope, turn(shared))
        await registries[0].made_durable([shared.key])

        async def work(registry: Registry, number: int) -> None:
            mine = await registry.scope(f"tenant {number % 4}", FINGERPRINT)
            known = block(0, "shared", key=shared.key, known=True)
            parts = [block(SIZE * (1 + n), f"{number}-{n}") for n in range(3)]
            await registry.add_turn(scope, turn(known, *parts, bands=(number, 1), session="one"))
            await registry.add_turn(mine, turn(block(0, f"m{number}"), session="two"))
            await registry.made_durable([p.key for p in parts])
            await registry.drop_blocks([parts[0].key, *([shared.key] if number == 7 else [])], "evict", "test")
            await registry.supersede(parts[1].key, parts[2].key)

        await asyncio.gather(*(work(registries[n % 3], n) for n in range(24)))
        figures = await registries[1].statistics()
        assert (figures["tenants"], figures["sessions"]) == (5, 5)
        assert figures["turns"]["cold"]["turns"] == 49
        assert figures["blocks"] == 24 * 2
        for registry in registries:
            assert await registry.broken_links() == 0
            assert await registry.unused() == []
