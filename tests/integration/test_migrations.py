"""Databases of earlier schema versions, as those versions wrote them: upgraded and used; newer ones are refused."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.operations import Operations
from alembic.script import ScriptDirectory
from pydantic import SecretStr
from sqlalchemy import Connection, text

from semshare_agents.errors import RegistryError, RegistryUnavailableError, SchemaVersionError
from semshare_agents.match.find import Found, find
from semshare_agents.registry import Registry, schema
from semshare_agents.registry import tables as t
from semshare_agents.registry.engine import make_engine
from semshare_agents.security.name_key import names_key
from semshare_agents.testing.postgres import Server
from semshare_agents.values import Reuse
from tests.conftest import OpenLLM
from tests.forks import CONTEXT

FIXTURES = Path(__file__).parents[1] / "fixtures"
OLD = (1, 2, 3, 4)
KEYED = 4
KEY = SecretStr("04" * 32)
"""The key of the names in the fixtures from version `KEYED` on."""
Fill = Callable[[int], str]


@pytest.fixture(params=["sqlite", "postgresql"])
def old(request: pytest.FixtureRequest, tmp_path: Path) -> Fill:
    """Makes a database as an earlier version left it and gives its URL."""
    if request.param == "sqlite":
        return lambda version: sqlite_of(version, tmp_path / "home" / "registry.db")
    url: str = request.getfixturevalue("postgres_url")
    server: Server = request.getfixturevalue("postgres")

    def filled(version: int) -> str:
        server.run((FIXTURES / f"registry-v{version}-postgresql.sql").read_text(), url.rpartition("/")[2])
        return url

    return filled


def sqlite_of(version: int, path: Path) -> str:
    path.parent.mkdir(exist_ok=True)
    with sqlite3.connect(path) as database:
        database.executescript((FIXTURES / f"registry-v{version}-sqlite.sql").read_text())
    database.close()
    return f"sqlite+aiosqlite:///{path}"


async def dump(url: str) -> dict[str, list[tuple[object, ...]]]:
    """All rows of the tables of schema version 1, by the columns they had then, and the version."""
    engine = make_engine(url)
    names = ("tenants", "scopes", "sessions", "turns", "blocks", "turn_blocks", "bands", "events")
    selects = {n: "id, tenant_id, fingerprint, model" if n == "scopes" else "*" for n in names}
    async with engine.connect() as c:
        found = {
            n: sorted(map(tuple, await c.execute(text(f"SELECT {what} FROM {n}"))), key=repr)
            for n, what in selects.items()
        }
        found["version"] = [(await c.run_sync(schema.version),)]
    await engine.dispose()
    return found


@pytest.mark.parametrize("version", OLD)
async def test_an_upgrade_keeps_every_row(old: Fill, version: int) -> None:
    url = old(version)
    before = await dump(url)
    assert before["version"] == [(version,)]
    assert len(before["turns"]) == 3
    assert await schema.migrate(url, 10.0) == version
    after = await dump(url)
    assert after.pop("version") == [(t.SCHEMA_VERSION,)]
    del before["version"]
    assert after == before
    assert await schema.migrate(url, 10.0) == t.SCHEMA_VERSION


@pytest.mark.parametrize("version", [*OLD, 0])
async def test_upgraded_and_new_databases_have_the_tables_of_this_version(
    old: Fill, version: int, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    if version:
        url = old(version)
    elif "postgresql" in request.node.name:
        url = request.getfixturevalue("postgres_url")
    else:
        url = f"sqlite+aiosqlite:///{tmp_path / 'new.db'}"
    await schema.migrate(url, 10.0)
    engine = make_engine(url)
    async with engine.connect() as c:
        assert await c.run_sync(differences) == []
    await engine.dispose()


def differences(connection: Connection) -> list[object]:
    own = (schema.VERSION_TABLE, schema.FIRST_VERSION_TABLE)
    options = {"compare_type": True, "include_name": lambda name, kind, _: not (kind == "table" and name in own)}
    return list(compare_metadata(MigrationContext.configure(connection, opts=options), t.metadata))


@pytest.mark.parametrize("version", [v for v in OLD if v >= KEYED])
async def test_names_that_a_key_made_are_found_after_an_upgrade(old: Fill, version: int) -> None:
    registry = await Registry.open(old(version), upgrade=True, names_key=names_key(Path(), KEY))
    try:
        async with registry.database.reading() as c:
            fingerprint = (await c.execute(text("SELECT fingerprint FROM scopes"))).scalar_one()
        scope = await registry.scope("acme", fingerprint)
        (donor,) = await registry.donors(scope, [2])
        assert (await find(registry, scope, donor.tokens, 16, Reuse.MOVED, 16)).exact_tokens == len(donor.tokens)
        pin = await registry.pin("acme", session="alice")
        assert (pin.blocks, await registry.pins()) == (9, [pin])
    finally:
        await registry.close()


@pytest.mark.parametrize("version", OLD)
async def test_an_upgraded_registry_keeps_turns_but_misses_names_that_anyone_could_make(
    old: Fill, version: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("WARNING", "semshare_agents")
    registry = await Registry.open(old(version), upgrade=True)
    try:
        assert [m["role"] for m in await registry.history("acme", "alice")][-1] == "assistant"
        turns = await registry.turns()
        assert [turn.reuse_class for turn in turns] == ["moved", "exact", "cold"]
        async with registry.database.reading() as c:
            fingerprint = (await c.execute(text("SELECT fingerprint FROM scopes"))).scalar_one()
        scope = await registry.scope("acme", fingerprint)
        (donor,) = await registry.donors(scope, [turns[1].id])
        assert len(donor.tokens) == 137 + 5
        assert await find(registry, scope, donor.tokens, 16, Reuse.MOVED, 16) == Found()
        assert "nothing stored so far is found for tenant acme" in caplog.text
        caplog.clear()
        assert await registry.scope("acme", fingerprint) == scope
        assert caplog.text == ""
        assert await registry.guard_statistics() == {"samples": {}, "limits": []}
    finally:
        await registry.close()


@pytest.mark.parametrize("version", OLD)
async def test_an_adapter_alone_upgrades_its_own_database_and_goes_on(
    open_llm: OpenLLM, tmp_path: Path, version: int
) -> None:
    sqlite_of(version, tmp_path / "home" / "registry.db")
    llm = await open_llm(home=tmp_path / "home")
    talk = llm.session("alice", tenant="acme")
    assert len(await talk.messages()) == 5
    first = await talk.send("and now?")
    # The fixture has rows but no files: counted misses, and a right answer.
    assert first.text
    assert (await talk.send("go on")).report.reuse_class == "exact"


async def test_an_old_database_in_use_is_left_alone(open_llm: OpenLLM, tmp_path: Path) -> None:
    import fcntl

    url = sqlite_of(1, tmp_path / "home" / "registry.db")
    with (tmp_path / "home" / "alive.lock").open("ab") as handle:
        fcntl.flock(handle, fcntl.LOCK_SH)
        with pytest.raises(SchemaVersionError, match="semshare db upgrade"):
            await open_llm(home=tmp_path / "home")
    assert (await dump(url))["version"] == [(1,)]


async def test_a_server_is_upgraded_on_request_only(open_llm: OpenLLM, postgres: Server, postgres_url: str) -> None:
    postgres.run((FIXTURES / "registry-v2-postgresql.sql").read_text(), postgres_url.rpartition("/")[2])
    with pytest.raises(SchemaVersionError, match="semshare db upgrade"):
        await open_llm(database_url=postgres_url)


async def test_a_newer_database_is_refused(old: Fill) -> None:
    url = old(2)
    await schema.migrate(url, 10.0)
    engine = make_engine(url)
    async with engine.begin() as c:
        await c.execute(text("UPDATE semshare_version SET version_num = '0999'"))
    await engine.dispose()
    for attempt in (Registry.open(url, upgrade=True), schema.migrate(url, 10.0)):
        with pytest.raises(SchemaVersionError, match="999"):
            await attempt


async def test_packages_of_earlier_versions_refuse_an_upgraded_database(old: Fill) -> None:
    url = old(2)
    await schema.migrate(url, 10.0)
    engine = make_engine(url)
    async with engine.connect() as c:
        assert (await c.execute(text("SELECT max(version) FROM semshare_schema"))).scalar() not in OLD
    await engine.dispose()


def killed_upgrade(url: str, step: int) -> None:
    """Upgrade a database and die once so many indexes are made."""
    made, real = 0, Operations.create_index

    def create_index(self: Operations, *args: Any, **kwargs: Any) -> None:
        nonlocal made
        real(self, *args, **kwargs)
        made += 1
        if made == step:
            os.kill(os.getpid(), signal.SIGKILL)

    Operations.create_index = create_index  # type: ignore[method-assign]
    asyncio.run(schema.migrate(url, 10.0))


@pytest.mark.parametrize("step", [1, 3])
async def test_a_killed_upgrade_loses_nothing_and_can_be_repeated(old: Fill, step: int) -> None:
    url = old(1)
    before = await dump(url)
    process = CONTEXT.Process(target=killed_upgrade, args=(url, step))
    process.start()
    await asyncio.to_thread(process.join)
    assert process.exitcode == -signal.SIGKILL
    assert await dump(url) == before
    assert await schema.migrate(url, 10.0) == 1
    assert (await dump(url))["turns"] == before["turns"]


async def test_a_failing_step_changes_nothing_and_says_so(old: Fill, monkeypatch: pytest.MonkeyPatch) -> None:
    url = old(1)
    before = await dump(url)

    def wrong(self: Operations, *_: object) -> None:
        self.execute("SELECT nonsense FROM nowhere")

    monkeypatch.setattr(Operations, "drop_index", wrong)
    with pytest.raises(RegistryError, match="nowhere"):
        await schema.migrate(url, 10.0)
    assert await dump(url) == before


async def test_two_processes_may_make_or_upgrade_a_database_at_once(old: Fill) -> None:
    url = old(1)
    assert sorted(await asyncio.gather(*(schema.migrate(url, 10.0) for _ in range(4)))) == [1, *[t.SCHEMA_VERSION] * 3]


def test_revisions_are_one_line_up_to_the_schema_version() -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(schema.__file__).parent / "migrations"))
    revisions = [r.revision for r in ScriptDirectory.from_config(config).walk_revisions()]
    assert revisions == [f"{n:04}" for n in range(t.SCHEMA_VERSION, 0, -1)]


async def test_a_server_that_does_not_answer_is_given_up(open_llm: OpenLLM) -> None:
    silent = socket.create_server(("127.0.0.1", 0))  # takes connections and says nothing
    port = silent.getsockname()[1]
    url = f"postgresql+asyncpg://someone@127.0.0.1:{port}/x"
    started = asyncio.get_running_loop().time()
    with pytest.raises(RegistryUnavailableError, match="does not answer: no connection within"):
        await open_llm(database_url=url, database_timeout_seconds=0.5)
    assert asyncio.get_running_loop().time() - started < 5
    silent.close()
    with pytest.raises(RegistryUnavailableError):
        await open_llm(database_url=url, database_timeout_seconds=0.5)
