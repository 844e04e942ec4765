"""Tenants: nothing crosses, unless a pool is declared; names say nothing without their key."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from semshare_agents import private
from semshare_agents.llm import SemShareLLM
from tests import tiny
from tests.conftest import OpenLLM
from tests.tiny import system, user

TEXT = tiny.words(120, 50)
REWORDED = "".join("q" if at % 11 == 5 else letter for at, letter in enumerate(TEXT))
PROMPTS = {
    "exact": [system("be brief"), user(TEXT)],
    "moved": [system("answer at some length, please"), user(TEXT)],
    "semantic": [user(REWORDED)],
}
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
    assert await llm.turns.registry.browse("branch") == []


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
