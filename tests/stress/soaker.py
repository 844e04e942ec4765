"""One process of a soak: sessions that talk, look and check until the time is over."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from semshare_agents.errors import SemShareError
from semshare_agents.llm import SemShareLLM
from semshare_agents.operate import audit
from semshare_agents.store import DiskStore
from tests import pipelines, tiny

TENANTS = 4
SESSION_TURNS = 5
EVENT_ROWS = 400
AUDIT_SECONDS = 1.0
SEEN = ("exact", "moved", "compared", "audits")
"""What every process has to see at least once, also on a slow machine, where that takes it longer."""
EXTRA_SECONDS = 90.0
MEMORY_BYTES = 1_500_000
DISK_BYTES = {1: 4_000_000, 4: 2_000_000}
"""By the number of processes, for all of them together; so little that something is evicted all the time."""


class Soak:
    """What one process does to a memory that others may use too."""

    def __init__(self, llm: SemShareLLM, seed: int, seconds: float):
        self.llm, self.seed = llm, seed
        self.end = time.monotonic() + seconds
        self.count: Counter[str] = Counter()
        self.errors: list[str] = []

    def goes_on(self) -> bool:
        """Whether the time is not over, or not everything was seen yet."""
        now = time.monotonic()
        return now < self.end or (now < self.end + EXTRA_SECONDS and not all(self.count[name] for name in SEEN))

    async def talk(self, number: int) -> None:
        """A session after another, each a few turns long, some texts shared by all of the tenant's sessions."""
        rng = random.Random(f"{self.seed}-{number}")
        while self.goes_on():
            tenant = f"t{rng.randrange(TENANTS)}"
            name = f"s{self.seed}-{number}-{self.count['turns']}"
            system = f"tenant {tenant}: {tiny.words(8, rng.randrange(3))}"
            session = self.llm.session(name, tenant=tenant, system=system)
            for _ in range(SESSION_TURNS):
                if not self.goes_on():
                    return
                try:
                    await self._turn(session, rng)
                except SemShareError as e:
                    self.errors.append(f"{type(e).__name__}: {e}")

    async def _turn(self, session: object, rng: random.Random) -> None:
        text = tiny.words(rng.randrange(3, 14), rng.randrange(40))
        reuse = rng.choice(["exact", "exact", "moved", "semantic"])
        messages = [*await session.messages(), tiny.user(text)]  # type: ignore[attr-defined]
        answer = await session.send(text, reuse=reuse)  # type: ignore[attr-defined]
        self.count["turns"] += 1
        self.count[answer.report.reuse_class] += 1
        self.count["misses"] += answer.report.misses
        if answer.report.turn_id is None:
            self.errors.append("a turn was not remembered")
        if reuse == "exact" and rng.random() < 0.2:
            cold = await self.llm.generate(messages, reuse="off", store=False)
            self.count["compared"] += 1
            if cold.tokens != answer.tokens:
                self.errors.append("an answer from exact reuse is not the cold one")

    async def watch(self) -> None:
        """Budgets hold at every look, and an audit may run beside everything."""
        store, audit_at = DiskStore(self.llm.settings.kv_dir), time.monotonic() + AUDIT_SECONDS
        while self.goes_on():
            for tier in self.llm.pipeline.memory.tiers.tiers:
                if tier.used_bytes > tier.budget_bytes:
                    self.errors.append(f"{tier.name} holds {tier.used_bytes} of {tier.budget_bytes}")
            if time.monotonic() >= audit_at:
                found = await audit.audit(self.llm.pipeline.memory.registry, store)
                self.count["audits"] += 1
                audit_at = time.monotonic() + AUDIT_SECONDS
                if found.damaged:
                    self.errors.append(f"damaged: {found.damaged[:2]}")
            await asyncio.sleep(0.01)


async def soak(home: Path, url: str, seconds: float, sessions: int, seed: int, disk_bytes: int) -> dict[str, object]:
    """Returns counts and errors."""
    small = {"memory_bytes": MEMORY_BYTES, "disk_bytes": disk_bytes, "block_tokens": 16, "max_new_tokens": 4}
    shape = {"head_tokens": 4, "tail_tokens": 4, "min_gain": 1.0, "event_rows": EVENT_ROWS}
    async with SemShareLLM.open(
        loaded=tiny.loaded("llama"), home=home, database_url=url or None, **small, **shape
    ) as llm:
        assert llm.pipeline.model.support.rows is not None
        pipelines.replan(llm, cost=tiny.cost(tiny.REUSE_WINS, llm.pipeline.model.support.rows.token_bytes))
        work = Soak(llm, seed, seconds)
        async with asyncio.TaskGroup() as group:
            group.create_task(work.watch())
            for number in range(sessions):
                group.create_task(work.talk(number))
        await llm.settle()
        if llm.pipeline.memory.tiers.leases._count:
            work.errors.append("leases are left")
        durable = llm.pipeline.memory.tiers.durable
        assert durable is not None
        work.count["evicted"] = durable.evicted.total()
        return {"count": dict(work.count), "errors": work.errors[:20], "error_count": len(work.errors)}


def run(
    home: Path, url: str, seconds: float, sessions: int, seed: int, disk_bytes: int, done: Connection[Any, Any]
) -> None:
    """What the process does: its counts and errors go to `done`."""
    torch.set_num_threads(1)
    done.send(asyncio.run(soak(home, url, seconds, sessions, seed, disk_bytes)))
