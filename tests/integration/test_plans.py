"""Every look-up by names, bands and pins runs on an index, on both databases."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import update

from semshare_agents.match.find import find, find_similar
from semshare_agents.match.signature import Signer
from semshare_agents.registry import Registry
from semshare_agents.registry import tables as t
from semshare_agents.registry.naming import ensure_session
from semshare_agents.values import Reuse
from tests.lookups import LookupBench, statements

TURNS, TOKENS, VOCABULARY = 1500, 500, 5000
LARGE = "turns|blocks|turn_blocks|bands"


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite+aiosqlite:///{tmp_path / 'registry.db'}"
    return str(request.getfixturevalue("postgres_url"))


async def plan(registry: Registry, statement: str, parameters: Any) -> str:
    word = "EXPLAIN QUERY PLAN " if registry.dialect == "sqlite" else "EXPLAIN "
    async with registry.database.reading() as c:
        rows = (await c.exec_driver_sql(word + statement, parameters)).all()
    return "\n".join(str(row[-1]) for row in rows)


def scans(found: str) -> list[str]:
    """Large tables that a plan reads as a whole."""
    return re.findall(rf"(?:SCAN|Seq Scan on) (?:{LARGE})\b.*", found)


async def say_in_a_session(registry: Registry, turn_id: int) -> None:
    async with registry.database.writing() as c:
        session_id = await ensure_session(c, "acme", "alice")
        await c.execute(update(t.turns).where(t.turns.c.id == turn_id).values(session_id=session_id))


async def test_look_ups_are_indexed(url: str) -> None:
    registry = await Registry.open(url)
    try:
        scope = await registry.scope("acme", "f" * 64)
        signer, rng = Signer(VOCABULARY, scope.hash_key), np.random.default_rng(0)
        texts = [rng.integers(0, VOCABULARY, TOKENS) for _ in range(TURNS)]
        bench = LookupBench()
        await bench.fill(registry, scope, signer, texts)
        prompt = np.concatenate((texts[7][:150], rng.integers(0, VOCABULARY, 20), texts[9][150:350]))
        with statements() as seen:
            found = await find(registry, scope, prompt, bench.block_tokens, Reuse.MOVED, 48)
            similar = await find_similar(registry, scope, signer, texts[11])
            await registry.history("acme", "nobody")
        await say_in_a_session(registry, turn_id=9)
        await registry.pin("acme", session="alice")
        await registry.pin("acme", turn_id=12)
        with statements() as held:
            blocks = await registry.pinned_blocks()
        assert len(blocks) == 2 * len(similar[0].blocks)
        assert {8, 10} <= {d.turn_id for d in found.donors}
        assert similar[0].turn_id == 12
        # Before the blocks of pins comes a look at the pins, a small table.
        looked_up = [pair for pair in (*seen, held[-1]) if re.match(r"\s*(SELECT|WITH)", pair[0])]
        assert len(looked_up) >= 9
        for statement, parameters in looked_up:
            explained = await plan(registry, statement, parameters)
            assert re.search(r"USING|Index", explained), f"{statement}\n{explained}"
            assert scans(explained) == [], f"{statement}\n{explained}"
        # The same eye does see a scan.
        assert scans(await plan(registry, "SELECT count(*) FROM blocks WHERE size_bytes < 0", ()))
    finally:
        await registry.close()
