"""Registry and disk store against a plain dictionary: whatever happens in whatever order, both say the same."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import Any

import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from semshare_agents.operate import audit
from semshare_agents.registry import NewBlock, Registry
from semshare_agents.store import BlockInfo, DiskStore
from semshare_agents.testing.registries import FINGERPRINT, SIZE, block, turn

TENANTS = ("one", "two")


class MemoryMachine(RuleBasedStateMachine):
    """`turns` and `links` are what should be known: blocks' keys by turn, and each block's tenant and durability."""

    @initialize()
    def open(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.loop = asyncio.new_event_loop()
        self.url = f"sqlite+aiosqlite:///{self.folder.name}/registry.db"
        self.store = DiskStore(Path(self.folder.name) / "kv")
        self.registry: Registry = self.do(Registry.open(self.url))
        self.turns: dict[int, tuple[str, list[str]]] = {}
        self.blocks: dict[str, tuple[NewBlock, bool]] = {}

    def do(self, work: Any) -> Any:
        return self.loop.run_until_complete(work)

    def info(self, key: str) -> BlockInfo:
        return BlockInfo(key, FINGERPRINT, SIZE)

    @rule(tenant=st.sampled_from(TENANTS), fresh=st.integers(1, 3), data=st.data())
    def add(self, tenant: str, fresh: int, data: st.DataObject) -> None:
        scope = self.do(self.registry.scope(tenant, FINGERPRINT))
        # Keys are random: in their own order, the same draws would make another run.
        held = (k for who, keys in self.turns.values() if who == tenant for k in keys if k in self.blocks)
        mine = list(dict.fromkeys(held))
        known = data.draw(st.lists(st.sampled_from(mine), max_size=1)) if mine else []
        first = [block(0, "shared", key=k, known=True) for k in known]
        new = [block(SIZE * (n + len(known)), f"n{len(self.blocks)}{n}") for n in range(fresh)]
        turn_id = self.do(self.registry.add_turn(scope, turn(*first, *new)))
        assert turn_id not in self.turns
        self.turns[turn_id] = (tenant, [b.key for b in (*first, *new)])
        self.blocks |= {b.key: (b, False) for b in new}

    @precondition(lambda self: self.blocks)
    @rule(data=st.data())
    def write(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(list(self.blocks)))
        self.store.put(self.info(key), torch.full((1, 2, 1, SIZE, 4), float(len(key))))
        assert self.do(self.registry.made_durable([key, "unknown"])) == ["unknown"]
        self.blocks[key] = (self.blocks[key][0], True)

    @precondition(lambda self: self.blocks)
    @rule(data=st.data())
    def evict(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(list(self.blocks)))
        assert self.do(self.registry.drop_blocks([key], "evict", "test")) == 1
        self.store.delete(key)
        del self.blocks[key]

    @precondition(lambda self: any(durable for _, durable in self.blocks.values()))
    @rule(data=st.data())
    def lose_a_file(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from([k for k, (_, durable) in self.blocks.items() if durable]))
        self.store.path(key).unlink()
        found = self.do(audit.audit(self.registry, self.store))
        assert found.gone == (key,)
        self.do(audit.repair(self.registry, self.store, found))
        del self.blocks[key]

    @rule()
    def restart(self) -> None:
        """Another process cannot see what was in RAM alone; the audit forgets it."""
        self.do(self.registry.close())
        self.registry = self.do(Registry.open(self.url))
        held = sorted(k for k, (_, durable) in self.blocks.items() if not durable)
        found = self.do(audit.audit(self.registry, self.store))
        assert list(found.held) == held
        self.do(audit.repair(self.registry, self.store, found))
        for key in held:
            del self.blocks[key]

    @invariant()
    def both_agree(self) -> None:
        if not hasattr(self, "registry"):
            return
        rows = {info.key: durable for info, durable in self.do(self.registry.blocks())}
        assert rows == {key: durable for key, (_, durable) in self.blocks.items()}
        assert {key for key, _ in self.store.entries()} == {k for k, durable in rows.items() if durable}
        found = self.do(audit.audit(self.registry, self.store))
        assert found.problems(alone=True) == 0

    @invariant()
    def tenants_have_their_own(self) -> None:
        if not hasattr(self, "registry"):
            return
        for tenant in TENANTS:
            scope = self.do(self.registry.scope(tenant, FINGERPRINT))
            donors = {d.turn_id: d for d in self.do(self.registry.donors(scope, sorted(self.turns)))}
            for turn_id, (who, keys) in self.turns.items():
                left = [k for k in keys if k in self.blocks]
                got = [b.key for b in donors[turn_id].blocks] if turn_id in donors else []
                assert got == (left if who == tenant else [])

    def teardown(self) -> None:
        if hasattr(self, "registry"):
            self.do(self.registry.close())
            self.loop.close()
            self.folder.cleanup()


TestMemory = MemoryMachine.TestCase
TestMemory.settings = settings(max_examples=12, stateful_step_count=15, deadline=None)
