"""Tenants: nothing crosses, unless a pool is declared; names say nothing without their key."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from semshare_agents.llm import SemShareLLM
from semshare_agents.security import files as private
from tests import tiny
from tests.conftest import OpenLLM
from tests.lookups import statements
from tests.tiny import system, user

TEXT = tiny.words(120, 50)
REWORDED = "".join("q" if at % 11 == 5 else letter for at, letter in enumerate(TEXT))
PROMPTS = {
    "exact": [system("be brief"), user(TEXT)],
    "moved": [system("answer at some length, please"), user(TEXT)],
    "semantic": [user(REWORDED)],
}
PAIRS = 16
EASY = {"similarity_threshold": 0.3}


async def asked(llm: SemShareLLM, kind: str, tenant: str, **more: Any) -> Any:
    return (await llm.generate(PROMPTS[kind], tenant=tenant, reuse=kind, store=False, **more)).report


@pytest.mark.parametrize("kind", PROMPTS)
async def test_the_same_tenant_hits_and_another_does_not(open_llm: OpenLLM, kind: str) -> None:
    llm = await open_llm(**EASY)
    await llm.generate(PROMPTS["exact"], tenant="acme")
    mine, theirs = await asked(llm, kind, "acme"), await asked(llm, kind, "other")
    assert mine.reuse_class == kind
    assert mine.tokens[kind] > 100
    assert (theirs.reuse_class, theirs.donors) == ("cold", {})


@pytest.mark.parametrize("kind", PROMPTS)
async def test_members_of_a_pool_hit_and_others_do_not(open_llm: OpenLLM, kind: str) -> None:
    llm = await open_llm(**EASY, pools={"docs": ["acme", "branch"]})
    await llm.session("talk", tenant="acme").send(TEXT, reuse="off")
    await llm.generate(PROMPTS["exact"], tenant="acme", reuse="off")
    assert (await asked(llm, kind, "branch")).tokens[kind] > 100
    assert (await asked(llm, kind, "acme")).tokens[kind] > 100
    assert (await asked(llm, kind, "docs")).reuse_class == "cold"
    assert (await asked(llm, kind, "other")).reuse_class == "cold"
    assert await llm.session("talk", tenant="branch").messages() == []
    assert await llm.pipeline.memory.registry.browse("branch") == []


async def test_another_tenants_names_are_never_equal_in_sql(open_llm: OpenLLM, tmp_path: Path) -> None:
    llm = await open_llm()
    for tenant in ("acme", "other"):
        await llm.generate(PROMPTS["exact"], tenant=tenant)
    await llm.aclose()
    seen: dict[str, dict[int, set[Any]]] = {}
    with sqlite3.connect(tmp_path / "home" / "registry.db") as database:
        for column, table in (("chain", "blocks"), ("branch", "blocks"), ("content", "blocks"), ("value", "bands")):
            rows = database.execute(f"SELECT scope_id, {column} FROM {table} WHERE {column} IS NOT NULL")
            for scope, value in rows:
                seen.setdefault(column, {}).setdefault(scope, set()).add(value)
    database.close()
    assert {len(scopes) for scopes in seen.values()} == {2}
    for scopes in seen.values():
        one, two = scopes.values()
        assert len(one) > 3
        assert not one & two


async def test_the_same_tenant_under_another_key_misses_and_is_told(
    open_llm: OpenLLM, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("WARNING", "semshare_agents")
    llm = await open_llm()
    await llm.session("talk", tenant="acme").send(TEXT)
    await llm.generate(PROMPTS["exact"], tenant="acme")
    kept = (tmp_path / "home" / "names.key").read_text()
    await llm.aclose()
    (tmp_path / "home" / "names.key").unlink()
    other = await open_llm()
    assert (await asked(other, "moved", "acme")).reuse_class == "cold"
    assert "nothing stored so far is found for tenant acme" in caplog.text
    assert len(await other.session("talk", tenant="acme").messages()) == 2
    await other.aclose()
    (tmp_path / "home" / "names.key").write_text(kept)
    again = await open_llm()
    assert (await asked(again, "exact", "acme")).reuse_class == "exact"


async def test_hosts_that_share_a_key_share_a_memory(open_llm: OpenLLM, tmp_path: Path) -> None:
    where = {"database_url": f"sqlite+aiosqlite:///{tmp_path / 'shared.db'}", "store_dir": tmp_path / "shared"}
    one = await open_llm(home=tmp_path / "one", names_key="shared", **where)
    await one.generate(PROMPTS["exact"])
    await one.flush()
    two = await open_llm(home=tmp_path / "two", names_key="shared", **where)
    assert (await asked(two, "exact", "default")).reuse_class == "exact"
    three = await open_llm(home=tmp_path / "three", **where)
    assert (await asked(three, "exact", "default")).reuse_class == "cold"


async def test_only_the_owner_may_look_into_anything_under_home(open_llm: OpenLLM, tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        small = {"memory_bytes": 2**20, "disk_bytes": 2**24, "max_new_tokens": 2}
        home, kv = tmp_path / "mine", tmp_path / "kv"
        async with SemShareLLM.open(loaded=tiny.loaded("llama"), home=home, store_dir=kv, **small) as llm:
            await llm.generate(PROMPTS["exact"])
            await llm.flush()
            found = {p.name for p in home.iterdir()}
            lax = [p for top in (home, kv) for p in private.open_to_others(top)]
    finally:
        os.umask(before)
    assert {"registry.db", "registry.db-wal", "registry.db-shm", "names.key", "alive.lock", "speeds"} <= found
    assert len(list(kv.glob("*/*.safetensors"))) > 1
    assert lax == []


@pytest.mark.alone
async def test_what_another_tenant_stored_does_not_show_in_the_time_to_the_first_token(open_llm: OpenLLM) -> None:
    """The work is the same, statement by statement and row by row; so the times, taken in turns, are of one kind."""
    # What is drafted is read beside the answer, at a moment of its own.
    llm = await open_llm(**EASY, drafts=False)
    texts = {stored: [tiny.words(60, 1000 * stored + n) for n in range(PAIRS)] for stored in (False, True)}
    for text in texts[True]:
        await llm.generate([user(text)], tenant="other")
    await llm.flush()
    await llm.pipeline.memory.registry.scope("mine", llm.pipeline.memory.spec.fingerprint, llm.pipeline.model.name)
    times: dict[bool, list[float]] = {False: [], True: []}
    work: dict[bool, list[Any]] = {False: [], True: []}
    with statements() as sent:
        for number in range(PAIRS):
            # Whoever goes first in a pair changes, so that a drift of the machine touches both alike.
            for stored in (number % 2 == 0, number % 2 == 1):
                sent.clear()
                asked = [user(texts[stored][number])]
                reply = await llm.generate(asked, tenant="mine", reuse="semantic", store=False, max_new_tokens=1)
                report, said = reply.report, [statement for statement, _ in sent]
                work[stored].append((dict(report.tokens), report.rows_share, dict(report.donors), said))
                times[stored].append(report.ttft_seconds)
    assert work[True] == work[False]
    assert {(w[0]["computed"], w[1], len(w[2])) for w in work[True]} == {(work[True][0][0]["computed"], 1.0, 0)}
    assert 0.67 < np.median(times[True]) / np.median(times[False]) < 1.5
    # Mann-Whitney's U in its normal approximation: beyond 3.9 standard deviations one run in ten thousand.
    wins = sum(a < b for a in times[True] for b in times[False])
    count = PAIRS * PAIRS
    assert abs(wins - count / 2) < 3.9 * np.sqrt(count * (2 * PAIRS + 1) / 12)
