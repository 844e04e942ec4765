"""Many sessions, many processes, both databases: nobody sees another's content and every book is right at the end."""

from __future__ import annotations

import asyncio
import fcntl
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from semshare_agents.operate import audit
from semshare_agents.registry import Registry
from semshare_agents.store import DiskStore
from semshare_agents.store.disk import LEDGER
from tests.forks import CONTEXT
from tests.stress.soaker import DISK_BYTES, EVENT_ROWS, SEEN, run

FOREIGN = """SELECT count(*) FROM events e JOIN turns t ON t.id = e.turn_id JOIN turns d ON d.id = e.donor_turn_id
             WHERE d.scope_id <> t.scope_id"""
CROSSED = """SELECT count(*) FROM turn_blocks l JOIN turns t ON t.id = l.turn_id JOIN blocks b ON b.id = l.block_id
             WHERE b.scope_id <> t.scope_id"""


def look(folder: Path, budget_bytes: int) -> Counter[str]:
    """What all files of blocks take, written or half-written, while nobody may change them."""
    with (folder / LEDGER).open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        size = sum(path.stat().st_size for path in folder.glob("*/*"))
    return Counter(looks=1, exceeded=size > budget_bytes, full=size > budget_bytes * 0.8)


async def watched(folder: Path, budget_bytes: int, seen: Counter[str]) -> None:
    """The processes' budget is one, whatever each of them believes."""
    while True:
        if (folder / LEDGER).is_file():
            seen.update(await asyncio.to_thread(look, folder, budget_bytes))
        await asyncio.sleep(0.02)


async def soaked(home: Path, url: str, seconds: float, processes: int, sessions: int) -> Counter[str]:
    """Run processes side by side; their counts, added up."""

    budget_bytes = DISK_BYTES[processes]

    def one(seed: int) -> dict[str, Any]:
        mine, theirs = CONTEXT.Pipe(duplex=False)
        process = CONTEXT.Process(target=run, args=(home, url, seconds, sessions, seed, budget_bytes, theirs))
        process.start()
        theirs.close()
        assert mine.poll(seconds + 240), f"process {seed} does not end"
        done: dict[str, Any] = mine.recv()
        process.join()
        assert process.exitcode == 0
        return done

    total: Counter[str] = Counter()
    watch = asyncio.create_task(watched(home / "kv", budget_bytes, total))
    results = await asyncio.gather(*(asyncio.to_thread(one, seed) for seed in range(processes)))
    watch.cancel()
    with suppress(asyncio.CancelledError):
        await watch
    assert total["full"] > seconds, total
    assert total["exceeded"] == 0, total
    for result in results:
        assert result["error_count"] == 0, result["errors"]
        total.update(result["count"])
        for name in SEEN:
            assert result["count"].get(name, 0) > 0, result
    return total


async def books_are_right(home: Path, url: str) -> None:
    registry = await Registry.open(url or f"sqlite+aiosqlite:///{home / 'registry.db'}")
    try:
        found = await audit.audit(registry, DiskStore(home / "kv"))
        assert not found.damaged, found
        assert not found.gone, found
        assert not found.unused, found
        assert not found.broken_links, found
        assert not found.temporary_files, found
        assert not found.held, found
        assert not found.orphans, f"{len(found.orphans)} of {found.files} files"
        async with registry.database.reading() as c:
            assert (await c.execute(text(FOREIGN))).scalar_one() == 0
            assert (await c.execute(text(CROSSED))).scalar_one() == 0
            assert (await c.execute(text("SELECT count(*) FROM events"))).scalar_one() <= EVENT_ROWS
    finally:
        await registry.close()


async def test_one_process_with_64_sessions(tmp_path: Path, pytestconfig: pytest.Config) -> None:
    done = await soaked(tmp_path, "", pytestconfig.getoption("--soak"), 1, 64)
    await books_are_right(tmp_path, "")
    print(dict(done))


async def test_four_processes_on_sqlite(tmp_path: Path, pytestconfig: pytest.Config) -> None:
    done = await soaked(tmp_path, "", pytestconfig.getoption("--soak"), 4, 8)
    await books_are_right(tmp_path, "")
    print(dict(done))


async def test_four_processes_on_postgresql(tmp_path: Path, postgres_url: str, pytestconfig: pytest.Config) -> None:
    done = await soaked(tmp_path, postgres_url, pytestconfig.getoption("--soak"), 4, 8)
    await books_are_right(tmp_path, postgres_url)
    print(dict(done))
