"""`semshare doctor` and `semshare db`, on tiny models."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from typer.testing import CliRunner

from semshare_agents.cli.main import app
from semshare_agents.doctor import State
from semshare_agents.doctor.model import self_test
from semshare_agents.doctor.surroundings import encryption_check, settings_check
from semshare_agents.registry.tables import SCHEMA_VERSION
from semshare_agents.security.encryption import make_cipher
from semshare_agents.settings import load_settings
from semshare_agents.testing.postgres import Server
from tests import tiny
from tests.conftest import OpenLLM
from tests.integration.test_migrations import FIXTURES, sqlite_of

BEFORE = ["settings", "versions", "permissions", "free space", "encryption", "registry"]
NAMES = [*BEFORE, "model", "memory tier", "disk tier", "speeds", "self-test"]


def run(*words: str | Path) -> tuple[int, str]:
    result = CliRunner(env={"COLUMNS": "200"}).invoke(app, [str(word) for word in words])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    tiny.build("llama").save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return folder


async def examined(*words: str | Path) -> tuple[int, dict[str, Any]]:
    status, output = await asyncio.to_thread(run, "doctor", "--json", *words)
    return status, {check["name"]: check for check in json.loads(output[output.index("[\n") :])}


async def test_a_sound_machine_passes_and_nothing_is_made(model: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    status, checks = await examined("--model", model, "--home", home)
    assert list(checks) == NAMES
    assert status == 0
    assert checks["self-test"]["state"] == "ok"
    assert "the same answer" in checks["self-test"]["found"]
    assert checks["registry"]["found"].startswith("none yet")
    assert not home.exists()


async def test_what_is_wrong_is_named_with_advice(
    open_llm: OpenLLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    llm = await open_llm()
    await llm.session("alice").send("hello")
    await llm.aclose()
    home = llm.settings.home
    home.chmod(0o755)
    monkeypatch.setenv("SEMSHARE_DISK_BYTES", str(2**60))
    status, checks = await examined("--model", tmp_path / "nowhere", "--home", home)
    assert status == 1
    assert checks["permissions"]["state"] == "warning"
    assert f"chmod -R go= {home}" in checks["permissions"]["advice"]
    assert "disk_bytes" in checks["free space"]["advice"]
    assert f"schema version {SCHEMA_VERSION}" in checks["registry"]["found"]
    assert "1 turns" in checks["registry"]["found"]
    assert checks["model"]["state"] == "failed"
    assert "self-test" not in checks


async def test_files_of_lost_keys_and_plain_ones_are_counted(open_llm: OpenLLM) -> None:
    llm = await open_llm()
    await llm.session("alice").send("hello")
    await llm.aclose()
    home, old, new = llm.settings.home, "0" * 64, "1" * 64
    files = list(llm.settings.kv_dir.glob("*/*.safetensors"))
    check = encryption_check(load_settings(home=home, encryption_keys=new))
    assert check.state is State.WARNING
    assert check.found.endswith(f"; 0 encrypted files, {len(files)} plain ones")
    cipher = make_cipher(SecretStr(old))
    for file in files:
        file.write_bytes(cipher.encrypt(file.read_bytes(), "anywhere"))
    check = encryption_check(load_settings(home=home, encryption_keys=new))
    assert check.state is State.WARNING
    assert check.found.endswith(f"{len(files)} of keys that are not given: {cipher.key_names[0]}")
    check = encryption_check(load_settings(home=home, encryption_keys=f"{new},{old}"))
    assert check.state is State.OK
    assert check.found.endswith(f"; {len(files)} encrypted files, 0 plain ones")
    assert encryption_check(load_settings(home=home, encryption_keys="short")).state is State.FAILED


async def test_misspelt_settings_are_named(
    open_llm: OpenLLM, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("WARNING", "semshare_agents")
    monkeypatch.setenv("SEMSHARE_REUSSE", "off")
    monkeypatch.setenv("SEMSHARE_SERVER_PORT", "8001")
    llm = await open_llm()
    assert "SEMSHARE_REUSSE is no setting and changes nothing: SEMSHARE_REUSE?" in caplog.text
    assert "SEMSHARE_SERVER_PORT" not in caplog.text
    check = settings_check(llm.settings)
    assert (check.state, check.advice) == (State.WARNING, "SEMSHARE_REUSE in its place?")


async def test_an_old_schema_and_a_silent_server_are_failures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sqlite_of(1, tmp_path / "home" / "registry.db")
    status, checks = await examined("--no-model", "--home", tmp_path / "home")
    assert (status, checks["registry"]["state"]) == (1, "failed")
    assert "semshare db upgrade" in checks["registry"]["advice"]
    monkeypatch.setenv("SEMSHARE_DATABASE_URL", "postgresql+asyncpg://nobody@127.0.0.1:1/x")
    status, checks = await examined("--no-model", "--home", tmp_path / "home")
    assert (status, checks["registry"]["state"]) == (1, "failed")
    assert "does not answer" in checks["registry"]["found"]


async def test_a_model_whose_kv_is_no_use_is_a_warning(tmp_path: Path) -> None:
    tiny.build("bloom-alibi").save_pretrained(tmp_path / "model")
    tiny.tokenizer().save_pretrained(tmp_path / "model")
    status, checks = await examined("--model", tmp_path / "model", "--home", tmp_path / "home")
    assert (status, checks["model"]["state"]) == (0, "warning")
    assert "cold" in checks["model"]["advice"]


async def test_a_wrong_answer_fails_the_self_test(open_llm: OpenLLM, monkeypatch: pytest.MonkeyPatch) -> None:
    from semshare_agents.kv.packing import Packed
    from semshare_agents.store import MemoryStore
    from semshare_agents.store.base import BlockInfo

    honest = MemoryStore.get_packed

    def wrong(self: MemoryStore, info: BlockInfo) -> Packed | None:
        packed = honest(self, info)
        if packed is not None:
            for part in packed.parts.values():
                part.fill_(7.0)
        return packed

    settings = (await open_llm()).settings
    loaded = tiny.loaded("llama")
    assert (await self_test(settings, loaded)).state is State.OK
    monkeypatch.setattr(MemoryStore, "get_packed", wrong)
    check = await self_test(settings, loaded)
    assert check.state is State.FAILED
    assert "another answer" in check.found


async def test_db_upgrade_upgrades_makes_and_repeats(tmp_path: Path, postgres: Server, postgres_url: str) -> None:
    home = tmp_path / "home"
    sqlite_of(1, home / "registry.db")
    assert f"schema version 1 -> {SCHEMA_VERSION}" in (await asyncio.to_thread(run, "db", "upgrade", "--home", home))[1]
    assert "nothing to do" in (await asyncio.to_thread(run, "db", "upgrade", "--home", home))[1]
    with sqlite3.connect(home / "registry.db") as database:
        assert database.execute("SELECT count(*) FROM turns").fetchone() == (3,)
    database.close()
    postgres.run((FIXTURES / "registry-v2-postgresql.sql").read_text(), postgres_url.rpartition("/")[2])
    words = ("db", "upgrade", "--home", home, "--database-url", postgres_url)
    assert f"2 -> {SCHEMA_VERSION}" in (await asyncio.to_thread(run, *words))[1]
    assert "made a registry" in (await asyncio.to_thread(run, "db", "upgrade", "--home", tmp_path / "new"))[1]
