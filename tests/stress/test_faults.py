"""A disk, a database or a clock that fails: answers keep coming, it is counted, and the memory recovers by itself."""

from __future__ import annotations

import errno
import os
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from semshare_agents.errors import RegistryUnavailableError
from semshare_agents.llm import SemShareLLM
from semshare_agents.observe.metrics import Metrics
from semshare_agents.operate import audit
from semshare_agents.registry.database import Database
from semshare_agents.store import DiskStore, disk, file_format
from tests import tiny
from tests.conftest import OpenLLM
from tests.tiny import user

TEXTS = [tiny.words(30, seed) for seed in range(5)]


async def asked(llm: SemShareLLM, number: int, **options: Any) -> str:
    """Answers as a cold run does; the reuse class."""
    cold = await llm.generate([user(TEXTS[number])], reuse="off", store=False)
    answer = await llm.generate([user(TEXTS[number])], reuse="exact", **options)
    await llm.flush()
    assert answer.tokens == cold.tokens
    return answer.report.reuse_class


def counted(llm: SemShareLLM, what: str) -> float:
    value = Metrics(llm.pipeline.memory.tiers.tiers).registry.get_sample_value(
        "semshare_tier_failures_total", {"tier": "disk", "what": what}
    )
    return value or 0.0


async def sound(llm: SemShareLLM) -> bool:
    await llm.flush()  # a block on its way out has no row but still a file
    found = await audit.audit(llm.pipeline.memory.registry, DiskStore(llm.settings.kv_dir))
    return found.problems(alone=True) == 0


def full(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def broken(*_: object) -> None:
    raise OSError(errno.EIO, "Input/output error")


def forbidden(*_: object, **__: object) -> None:
    raise PermissionError(errno.EACCES, "Permission denied")


@pytest.mark.parametrize(
    ("owner", "name", "fault"),
    [(os, "fsync", full), (os, "fsync", broken), (disk, "_sync_folder", broken), (Path, "rename", forbidden)],
    ids=["full", "fsync", "folder", "read-only"],
)
async def test_a_disk_that_cannot_be_written(
    open_llm: OpenLLM, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, fault: Any
) -> None:
    llm = await open_llm()
    assert await asked(llm, 0) == "cold"
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, fault)
        assert await asked(llm, 1) == "cold"
        assert await asked(llm, 1) == "exact", "RAM has it"
        assert counted(llm, "write") > 0
        assert await llm.pipeline.memory.registry.foreign() == []
    assert await asked(llm, 2) == "cold"
    assert not llm.pipeline.memory._delayed
    assert await sound(llm)
    await llm.aclose()
    # What could not be written was written once it could be, and outlives the process.
    again = await open_llm()
    for number in range(3):
        assert await asked(again, number, store=False) == "exact"


@contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """A file system of 400 kB; needs the right to mount one."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def may_mount() -> bool:
    return os.geteuid() == 0 and subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode == 0


@pytest.mark.skipif(not may_mount(), reason="mounting a small file system needs root; the injected faults run anywhere")
async def test_a_small_disk_that_fills_up(open_llm: OpenLLM, tmp_path: Path) -> None:
    with small_disk(tmp_path / "small"):
        llm = await open_llm(store_dir=tmp_path / "small" / "kv")
        for number in range(len(TEXTS)):
            assert await asked(llm, number) == "cold"
        assert counted(llm, "write") > 0
        assert llm.pipeline.memory._delayed
        for number in range(len(TEXTS)):
            assert await asked(llm, number, store=False) == "exact"
        assert not list(llm.settings.kv_dir.glob("*/*.tmp"))
        await llm.aclose()


async def test_files_that_cannot_be_read_for_a_while(open_llm: OpenLLM, monkeypatch: pytest.MonkeyPatch) -> None:
    llm = await open_llm(memory_bytes=0)
    assert await asked(llm, 0) == "cold"
    with monkeypatch.context() as patch:
        patch.setattr(file_format, "safe_open", forbidden)
        assert await asked(llm, 0, store=False) == "cold"
        assert counted(llm, "read") > 0
    assert await asked(llm, 0, store=False) == "exact", "their rows stayed"
    assert await sound(llm)


@pytest.mark.parametrize("what", ["writing", "reading"])
async def test_a_database_that_fails_for_a_while(open_llm: OpenLLM, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    llm = await open_llm()
    assert await asked(llm, 0) == "cold"

    @asynccontextmanager
    async def failing(_: Database) -> AsyncIterator[None]:
        raise RegistryUnavailableError("the registry database fails: database or disk is full")
        yield

    async def no_look_up(database: Database, _: object) -> None:
        async with failing(database):
            pass

    with monkeypatch.context() as patch:
        patch.setattr(Database, what, failing)
        if what == "reading":
            # On SQLite look-ups have connections of their own.
            patch.setattr(Database, "looking", no_look_up)
        for tenant in (None, "new"):
            assert await asked(llm, 1, tenant=tenant) == "cold"
        failed = await llm.generate([user(TEXTS[1])], tenant="newer")
        assert failed.report.turn_id is None
        if what == "writing":
            assert "the memory fails" in failed.report.reason
    assert await asked(llm, 1) == "cold"
    assert await asked(llm, 1) == "exact"
    assert await asked(llm, 0) == "exact"
    assert await sound(llm)
    assert len(llm.pipeline.memory.tiers.tiers[0]) == len(await llm.pipeline.memory.registry.blocks())


async def test_a_clock_that_goes_backwards(open_llm: OpenLLM, monkeypatch: pytest.MonkeyPatch) -> None:
    llm = await open_llm(disk_bytes=300_000, memory_bytes=200_000)
    now = [2e9]

    def earlier() -> float:
        now[0] -= 3600.0
        return now[0]

    monkeypatch.setattr(time, "time", earlier)
    for number in range(len(TEXTS)):
        assert await asked(llm, number) == "cold"
        assert await asked(llm, number) == "exact"
    session = llm.session("alice")
    said = [await session.send(word) for word in ("one", "two")]
    history = await llm.session("alice").messages()
    assert [m["content"] for m in history[1::2]] == [s.text for s in said]
    assert await sound(llm)
