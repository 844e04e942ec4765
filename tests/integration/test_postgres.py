"""Whole turns over PostgreSQL, two adapters on one server, processes that end, a server that goes away."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from semshare_agents.cli.main import app
from semshare_agents.errors import RegistryUnavailableError
from semshare_agents.registry import Registry
from semshare_agents.testing.postgres import QUICK, Server, server
from tests import tiny
from tests.conftest import OpenLLM
from tests.tiny import system, user

BODY = " ".join(tiny.words(30, seed) for seed in range(3))
MESSAGES = [system("be brief"), user(BODY)]
CHANGED = [system("answer at length"), user(BODY)]


async def verify(url: str, home: Path, *words: str) -> tuple[int, str]:
    environment = {"SEMSHARE_DATABASE_URL": url, "COLUMNS": "140"}
    call = lambda: CliRunner(env=environment).invoke(app, ["verify", "--home", str(home), *words])  # noqa: E731
    result = await asyncio.to_thread(call)
    return result.exit_code, result.output


async def test_turns_survive_a_restart(open_llm: OpenLLM, postgres_url: str, tmp_path: Path) -> None:
    first = await open_llm(database_url=postgres_url)
    answer = await first.generate(MESSAGES)
    said = await first.session("alice").send(BODY)
    await first.aclose()
    second = await open_llm(database_url=postgres_url)
    assert [m["content"] for m in await second.session("alice").messages()] == [BODY, said.text]
    again = await second.generate(MESSAGES, store=False)
    assert (again.report.reuse_class, again.report.misses, again.tokens) == ("exact", 0, answer.tokens)
    assert (await second.generate(CHANGED, store=False)).report.reuse_class == "moved"
    semantic = await second.generate([user(f"well {BODY}")], reuse="semantic", store=False)
    assert semantic.report.reuse_class != "cold"
    await second.aclose()
    status, output = await verify(postgres_url, tmp_path / "home")
    assert (status, "rows and files agree" in output) == (0, True)


async def test_two_adapters_share_one_memory(open_llm: OpenLLM, postgres_url: str) -> None:
    one, two = await asyncio.gather(*(open_llm(database_url=postgres_url) for _ in range(2)))
    texts = [tiny.words(30, seed) for seed in range(8)]
    expected = [await one.generate([user(text)], reuse="off", store=False) for text in texts]

    async def talk(number: int, text: str) -> None:
        for llm in (one, two) if number % 2 else (two, one):
            answer = await llm.generate([user(text)], session=f"s{number}", reuse="exact")
            assert answer.tokens == expected[number].tokens
            await llm.flush()

    await asyncio.gather(*(talk(n, text) for n, text in enumerate(texts)))
    registry = one.pipeline.memory.registry
    assert await registry.broken_links() == 0
    assert await registry.unused() == []
    assert await registry.foreign() == []
    # What one stored is on disk, and the other reads it from there.
    fresh = tiny.words(30, seed=99)
    await one.generate([user(fresh)])
    await one.flush()
    assert (await two.generate([user(fresh)], store=False)).report.reuse_class == "exact"


KILLED = """
import asyncio, os, signal, sys
from pathlib import Path
from semshare_agents.llm import SemShareLLM
from tests import tiny
async def main():
    async with SemShareLLM.open(
        loaded=tiny.loaded("llama"), home=Path(sys.argv[1]), database_url=sys.argv[2], disk_bytes=0, block_tokens=16,
        max_new_tokens=4,
    ) as llm:
        await llm.generate([tiny.user(tiny.words(30, seed=5))])
        print("stored", flush=True)
        await asyncio.sleep(60)
asyncio.run(main())
"""


async def test_blocks_of_a_killed_process_are_forgotten_those_of_a_living_one_stay(
    open_llm: OpenLLM, postgres_url: str, tmp_path: Path
) -> None:
    living = await open_llm(database_url=postgres_url, disk_bytes=0)
    await living.generate(MESSAGES)
    mine = {info.key for info, _ in await living.pipeline.memory.registry.blocks()}
    script = [sys.executable, "-c", KILLED, str(tmp_path / "other"), postgres_url]
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    process = await asyncio.create_subprocess_exec(*script, stdout=subprocess.PIPE, cwd=root, env=environment)
    assert process.stdout is not None
    assert await asyncio.wait_for(process.stdout.readline(), 60) == b"stored\n"
    assert await living.pipeline.memory.registry.foreign() != []
    assert await living.pipeline.memory.registry.abandoned() == []
    process.send_signal(signal.SIGKILL)
    await process.wait()
    async with asyncio.timeout(20):
        while not await living.pipeline.memory.registry.abandoned():  # noqa: ASYNC110
            await asyncio.sleep(0.05)  # the server sees the end of the connection when it sees it
    second = await open_llm(database_url=postgres_url)
    assert await second.pipeline.memory.registry.abandoned() == []
    assert set(await second.pipeline.memory.registry.foreign()) == mine
    assert (await living.generate(MESSAGES, store=False)).report.reuse_class == "exact"


async def test_verify_sees_who_lives_through_the_server(open_llm: OpenLLM, postgres_url: str, tmp_path: Path) -> None:
    living = await open_llm(database_url=postgres_url, disk_bytes=0, home=tmp_path / "one")
    await living.generate(MESSAGES)
    elsewhere = tmp_path / "two"
    assert (await verify(postgres_url, elsewhere))[0] == 0
    refused = CliRunner(env={"SEMSHARE_DATABASE_URL": postgres_url}).invoke
    status = await asyncio.to_thread(refused, app, ["verify", "--fix", "--home", str(elsewhere)])
    assert "another process" in str(status.exception)
    await living.aclose()
    status_after, output = await verify(postgres_url, elsewhere, "--fix")
    assert status_after == 0
    assert "put right" in output
    assert (await verify(postgres_url, elsewhere))[0] == 0


async def test_a_server_that_goes_away_is_an_error_and_not_a_hang(tmp_path: Path) -> None:
    def started() -> tuple[object, Server]:
        context = server(*QUICK)
        return context, context.__enter__()

    context, running = await asyncio.to_thread(started)
    try:
        url = await asyncio.to_thread(running.database, "x")
        registry = await Registry.open(url, timeout_seconds=2.0)
        scope = await registry.scope("acme", "f" * 64)
    finally:
        await asyncio.to_thread(context.__exit__, None, None, None)  # type: ignore[attr-defined]
    with pytest.raises(RegistryUnavailableError):
        await registry.find_chain(scope, ["a"])
    with pytest.raises(RegistryUnavailableError):
        await registry.scope("other", "f" * 64)
    await registry.close()
