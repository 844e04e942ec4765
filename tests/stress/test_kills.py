"""Kill -9 at random moments and at every step of the write path: nothing wrong is served, nothing committed is lost."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from semshare_agents.llm import SemShareLLM
from semshare_agents.operate import audit
from semshare_agents.registry import Registry
from semshare_agents.registry import tables as t
from semshare_agents.store import DiskStore
from tests import pipelines, tiny
from tests.stress.writer import KIND_OF, STEPS, opened, text_of

ROOT = Path(__file__).parents[2]
KINDS = ("store", "store", "evict", "evict", "upgrade", "mend")
FRESH_HOME = 6
"""Kills that one folder outlives before the next begins."""


class Writers:
    """The process that forks writers, and its victims' last words."""

    def __init__(self, process: asyncio.subprocess.Process):
        self.process = process

    async def line(self) -> list[str]:
        assert self.process.stdout is not None
        line = await asyncio.wait_for(self.process.stdout.readline(), 60)
        assert line, "the writers' process ended"
        return line.decode().split()

    async def killed(self, job: dict[str, Any], seconds: float | None) -> list[list[str]]:
        """Start a writer, kill it after so long or let it kill itself; what it said."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(job).encode() + b"\n")
        first = await self.line()
        assert first[0] == "pid"
        timer = None
        if seconds is not None:
            timer = asyncio.get_running_loop().call_later(seconds, os.kill, int(first[1]), signal.SIGKILL)
        said: list[list[str]] = []
        while (words := await self.line())[0] != "ended":
            said.append(words)
        if timer is not None:
            timer.cancel()
        assert os.WTERMSIG(int(words[1])) == signal.SIGKILL, f"{job}: the writer ended by itself: {words}"
        return said


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def writers() -> AsyncIterator[Writers]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.stress.writer",
        cwd=ROOT,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    started = Writers(process)
    while await started.line() != ["ready"]:
        pass
    yield started
    assert process.stdin is not None
    process.stdin.close()
    await process.wait()


async def check_files(home: Path, job: dict[str, Any]) -> None:
    """Rows and files agree, or agree once an audit has put them right; no visible row is without its whole file."""
    registry = await Registry.open(f"sqlite+aiosqlite:///{home / 'registry.db'}")
    store = DiskStore(home / "kv")
    found = await audit.audit(registry, store)
    if job["kind"] != "mend":
        # A file that evicts others goes first, its row right after: the row's own file is then gone, never half there.
        assert not found.damaged, found
        assert not found.gone or job["kind"] in ("evict", "quota", "pin"), found
        assert not found.broken_links, found
    await audit.repair(registry, store, found)
    # What a dead process's rows name is known to be whole only once it is everybody's.
    found = await audit.audit(registry, store)
    if found.damaged:
        await audit.repair(registry, store, found)
        found = await audit.audit(registry, store)
    assert found.problems(alone=True) == 0, found
    await registry.close()


async def check_answers(home: Path, said: list[list[str]], job: dict[str, Any], rng: random.Random) -> None:
    """Turns that were answered are there, those that were durable are served exactly, all as a cold run answers."""
    durable = {int(w[1]) for w in said if w[0] == "durable"}
    answered = {int(w[1]): int(w[2]) for w in said if w[0] == "answered"}
    with sqlite3.connect(home / "registry.db") as db:
        known = {row[0] for row in db.execute("SELECT id FROM turns")}
    db.close()
    forgetting, forgot = ({int(w[1]) for w in said if w[0] == word} for word in ("forgetting", "forgot"))
    assert not {answered[n] for n in forgot} & known
    # Who was interrupted has forgotten all of it or nothing.
    answered = {n: turn_id for n, turn_id in answered.items() if n not in forgetting or turn_id in known}
    assert set(answered.values()) <= known
    last = sorted(answered)[-2:]
    wanted = sorted({*last, *rng.sample(sorted(answered), min(2, len(answered)))})
    async with opened(str(home), repair_idle=False) as llm:
        pinned = await check_pins(llm, home, said)
        for number in forgetting - set(answered):
            assert await llm.session(f"s{number}").messages() == []
        assert llm.pipeline.model.support.rows is not None
        pipelines.replan(llm, cost=tiny.cost(tiny.REUSE_WINS, llm.pipeline.model.support.rows.token_bytes))
        for number in sorted({*wanted, *pinned}):
            cold = await llm.generate([tiny.user(text_of(number))], reuse="off", store=False)
            warm = await llm.generate([tiny.user(text_of(number))], reuse="exact", store=False)
            assert warm.tokens == cold.tokens, f"{job}: turn {number}"
            assert warm.report.misses == 0
            history = await llm.session(f"s{number}").messages()
            assert [m["content"] for m in history] == [text_of(number), cold.text]
            if number in pinned or (number in durable and job["kind"] == "store"):
                assert warm.report.reuse_class == "exact", f"{job}: turn {number} is lost"


async def check_pins(llm: SemShareLLM, home: Path, said: list[list[str]]) -> set[int]:
    """A pin that was interrupted holds all of its session or nothing, as does one that was being ended; who holds."""
    pinning, pinned, unpinning, unpinned = (
        {int(w[1]) for w in said if w[0] == word} for word in ("pinning", "pinned", "unpinning", "unpinned")
    )
    blocks = {int(p.session[1:]): p.blocks for p in await llm.pipeline.memory.registry.pins() if p.session is not None}
    assert pinned - unpinning <= set(blocks) <= pinning - unpinned
    query = """SELECT count(DISTINCT b.block_id) FROM turn_blocks b JOIN turns t ON t.id = b.turn_id
        JOIN sessions s ON s.id = t.session_id WHERE s.name = ?"""
    with sqlite3.connect(home / "registry.db") as db:
        for number, count in blocks.items():
            assert count == db.execute(query, (f"s{number}",)).fetchone()[0] > 0
    db.close()
    return set(blocks)


def check_upgrades(said: list[list[str]]) -> None:
    """An upgrade that was interrupted left the old database or the new one, and can be done again."""
    for words in said[-3:]:
        if words[0] == "old":
            asyncio.run(_upgraded(words[1]))


async def _upgraded(path: str) -> None:
    registry = await Registry.open(f"sqlite+aiosqlite:///{path}", upgrade=True)
    turns = await registry.turns()
    await registry.close()
    assert len(turns) > 0, path


async def survive(writers: Writers, home: Path, job: dict[str, Any], seconds: float | None, seed: int) -> None:
    await asyncio.to_thread(home.mkdir, parents=True, exist_ok=True)
    said = await writers.killed({**job, "home": str(home)}, seconds)
    if job["kind"] == "upgrade":
        await asyncio.to_thread(check_upgrades, said)
        return
    if (home / "registry.db").is_file():
        await check_files(home, job)
        await check_answers(home, said, job, random.Random(seed))


@pytest.mark.asyncio(loop_scope="module")
async def test_kills_at_random_moments(writers: Writers, tmp_path: Path, pytestconfig: pytest.Config) -> None:
    assert t.SCHEMA_VERSION >= 3
    for number in range(pytestconfig.getoption("--kills")):
        rng = random.Random(number)
        kind = KINDS[number % len(KINDS)]
        # A folder of one kind outlives several kills.
        home = tmp_path / f"{'evict' if kind == 'evict' else 'store'}-{number // (FRESH_HOME * 4)}"
        if kind == "upgrade":
            home = tmp_path / "upgrade"
        job = {"kind": kind, "first": 1000 * number, "step": "", "when": "", "nth": 0}
        await survive(writers, home, job, rng.uniform(0.02, 0.9), number)


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("when", ["before", "after"])
async def test_kills_at_every_step(writers: Writers, tmp_path: Path, when: str, pytestconfig: pytest.Config) -> None:
    thorough = pytestconfig.getoption("--kills") >= 300
    for number, step in enumerate(STEPS):
        for nth in (1, 4) if thorough else (2,):
            job = {"kind": KIND_OF.get(step, "store"), "first": 100 * number, "step": step, "when": when, "nth": nth}
            await survive(writers, tmp_path / f"{step}-{nth}", job, None, nth)
