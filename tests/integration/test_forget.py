"""Forgetting: nothing of what is forgotten is left in tables, files, RAM or other processes, and the rest stays."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from semshare_agents.cli.main import app
from semshare_agents.errors import ConfigurationError, NotStoredError, RegistryUnavailableError
from semshare_agents.llm import SemShareLLM
from semshare_agents.operate.audit import audit
from semshare_agents.store.disk import DiskStore
from tests import tiny
from tests.conftest import OpenLLM
from tests.tiny import system, user

SECRET, OTHER, NEXT = tiny.words(40, 1), tiny.words(40, 2), tiny.words(12, 3)
HEAD = system("all say this first, whoever they are and whatever they want")


def traces(home: Path, *texts: str) -> Iterator[str]:
    """Files under a home in which texts or their token ids are found, as they are or as JSON has them."""
    tokenizer = tiny.tokenizer()
    wanted = {t: t.encode() for t in texts}
    for t in texts:
        ids = tokenizer(t, add_special_tokens=False)["input_ids"]
        wanted[f"ids of {t}"] = b"".join(int(i).to_bytes(4, "little") for i in ids[:12])
        # Wherever blocks of 16 begin, one of these lies in one of them.
        wanted |= {
            f"listed ids of {t[at:]}": ",".join(map(str, ids[at : at + 8])).encode()
            for at in range(9)
            if at + 8 <= len(ids)
        }
    for path in sorted(p for p in home.rglob("*") if p.is_file()):
        content = path.read_bytes()
        yield from (f"{path.name}: {what[:40]}" for what, raw in wanted.items() if raw in content)


def names_of(home: Path, *turn_ids: int) -> set[bytes]:
    """Names of turns' blocks and their signatures, as the database's file has them; none that other turns have too."""
    found: tuple[set[bytes], set[bytes]] = (set(), set())
    with sqlite3.connect(home / "registry.db") as database:
        links = database.execute(
            "SELECT l.turn_id, chain, branch, content FROM blocks b JOIN turn_blocks l ON l.block_id = b.id"
        )
        for turn_id, *names in [*links, *database.execute("SELECT turn_id, value FROM bands")]:
            raw = (n.encode() if isinstance(n, str) else n.to_bytes(8, "big", signed=True) for n in names if n)
            found[turn_id in turn_ids].update(raw)
    database.close()
    return found[True] - found[False]


async def filled(llm: SemShareLLM) -> dict[str, int]:
    """Turns by name: one alone, one that goes on from it, one that shares its beginning, another tenant's."""
    said: dict[str, int] = {}
    talk = llm.session("talk", tenant="acme", system=HEAD["content"])
    for name, text in (("first", SECRET), ("second", NEXT)):
        said[name] = (await talk.send(text)).report.turn_id or 0
    for name, tenant, text in (("shares", "acme", OTHER), ("theirs", "other", SECRET[::-1])):
        said[name] = (await llm.generate([HEAD, user(text)], tenant=tenant)).report.turn_id or 0
    await llm.settle()
    return said


@pytest.mark.parametrize("what", ["turn", "session", "tenant"])
async def test_nothing_of_it_is_left_and_the_rest_stays(open_llm: OpenLLM, tmp_path: Path, what: str) -> None:
    home = tmp_path / "home"
    llm = await open_llm()
    said = await filled(llm)
    names = names_of(home, said["first"], said["second"])
    everything = b"".join(p.read_bytes() for p in home.rglob("*") if p.is_file())
    assert len(names) > 10
    assert all(name in everything for name in names)
    assert any(where.startswith("registry.db") for where in traces(home, SECRET))
    assert any(".safetensors: listed ids" in where for where in traces(home, SECRET))
    chosen = {"turn": {"turn": said["first"]}, "session": {"session": "talk"}, "tenant": {}}[what]
    found = await llm.forget(tenant="acme", **chosen)
    gone = {said["first"], said["second"]} | ({said["shares"]} if what == "tenant" else set())
    assert set(found.turn_ids) == gone
    assert list(traces(home, SECRET, NEXT)) == []
    left = b"".join(p.read_bytes() for p in home.rglob("*") if p.is_file())
    assert [name for name in names if name in left] == []
    assert not any(llm.pipeline.memory.tiers.anywhere(key) for key in found.keys)
    assert b"acme" not in left if what == "tenant" else b"talk" not in left
    assert await llm.session("talk", tenant="acme").messages() == []
    stays = await llm.generate([HEAD, user(OTHER)], tenant="acme", store=False)
    assert stays.report.reuse_class == ("cold" if what == "tenant" else "exact")
    theirs = await llm.generate([HEAD, user(SECRET[::-1])], tenant="other", store=False)
    assert theirs.report.reuse_class == "exact"
    again = await llm.generate([HEAD, user(SECRET)], tenant="acme", reuse="moved")
    assert again.report.tokens["computed"] > len(SECRET) * 0.9
    await llm.flush()
    assert (await audit(llm.pipeline.memory.registry, DiskStore(home / "kv"))).problems(alone=True) == 0


async def test_kv_taken_from_it_goes_and_the_turn_that_took_it_stays(open_llm: OpenLLM) -> None:
    llm = await open_llm(similarity_threshold=0.3)
    reworded = "".join("q" if at % 11 == 5 else letter for at, letter in enumerate(SECRET))
    first = await llm.generate([user(SECRET)])
    taken = await llm.generate([user(reworded)], reuse="semantic")
    assert taken.report.reuse_class == "semantic"
    assert first.report.turn_id is not None
    await llm.forget(turn=first.report.turn_id)
    row = await llm.pipeline.memory.registry.turn(taken.report.turn_id or 0)
    assert row is not None
    assert '"donors":{}' in row[0].report
    after = await llm.generate([user(reworded)], reuse="semantic", store=False)
    assert after.report.tokens["exact"] == row[0].exact_tokens // 16 * 16
    assert after.report.tokens["semantic"] == after.report.tokens["moved"] == 0


async def test_a_turn_under_way_is_answered_and_not_remembered(open_llm: OpenLLM, tmp_path: Path) -> None:
    llm = await open_llm(max_new_tokens=24)
    talk = llm.session("talk")
    await talk.send(SECRET)
    pieces = talk.stream(NEXT)
    await anext(pieces)
    await llm.forget(session="talk")
    last = [piece async for piece in pieces][-1].generation
    assert last is not None
    assert last.text
    assert last.report.turn_id is None
    await llm.settle()
    assert await talk.messages() == []
    assert list(traces(tmp_path / "home", SECRET, NEXT)) == []
    assert (await talk.send(OTHER)).report.turn_id is not None
    assert len(await talk.messages()) == 2


async def test_idle_work_does_not_bring_it_back(open_llm: OpenLLM, tmp_path: Path) -> None:
    llm = await open_llm(repair_idle=True, guard_share=1.0)
    await llm.generate([user(SECRET)])
    with llm.pipeline.engine.idle.busy():
        moved = await llm.generate([HEAD, user(SECRET)], reuse="moved")
        assert moved.report.reuse_class == "moved"
        await llm.forget(tenant="default")
    await llm.settle()
    assert (await llm.pipeline.memory.registry.statistics())["blocks"] == 0
    assert await llm.pipeline.memory.registry.guard_statistics() == {"samples": {}, "limits": []}
    assert list((tmp_path / "home" / "kv").glob("*/*.safetensors")) == []
    assert list(traces(tmp_path / "home", SECRET)) == []


async def test_another_process_drops_it_too(open_llm: OpenLLM) -> None:
    one, two = await open_llm(), await open_llm()
    talk = two.session("talk")
    await talk.send(SECRET)
    await two.flush()
    keys = [info.key for info, _ in await two.pipeline.memory.registry.blocks()]
    assert all(two.pipeline.memory.tiers.anywhere(key) for key in keys)
    assert set((await one.forget(session="talk")).keys) == set(keys)
    assert await talk.messages() == []
    assert (await two.generate([user(SECRET)], store=False)).report.reuse_class == "cold"
    assert not any(two.pipeline.memory.tiers.anywhere(key) for key in keys)


@pytest.mark.parametrize("how", ["reopen", "verify"])
async def test_what_was_interrupted_is_completed(
    open_llm: OpenLLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    home = tmp_path / "home"
    llm = await open_llm()
    await filled(llm)
    registry = llm.pipeline.memory.registry
    await registry.forget("acme")  # and nothing after it: as if the process had ended here
    await llm.aclose()
    assert list(traces(home, SECRET)) != []
    if how == "reopen":
        await open_llm()
    else:
        result = await asyncio.to_thread(CliRunner().invoke, app, ["verify", "--fix", "--home", str(home)])
        assert result.exit_code == 0, result.output
    assert list(traces(home, SECRET, NEXT)) == []
    with sqlite3.connect(home / "registry.db") as database:
        assert database.execute("SELECT count(*) FROM forgets WHERE NOT erased").fetchone() == (0,)
    database.close()


async def test_a_reader_of_an_old_state_is_told_of(
    open_llm: OpenLLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("semshare_agents.registry.engine.BUSY_TIMEOUT_SECONDS", 0.2)
    monkeypatch.setattr("semshare_agents.registry.erasure.CHECKPOINT_TRIES", 2)
    monkeypatch.setattr("semshare_agents.registry.erasure.CHECKPOINT_PAUSE_SECONDS", 0.0)
    llm = await open_llm()
    await llm.generate([user(SECRET)])
    reader = sqlite3.connect(tmp_path / "home" / "registry.db", isolation_level=None, timeout=0.1)
    reader.execute("BEGIN")
    reader.execute("SELECT * FROM turns").fetchone()
    with pytest.raises(RegistryUnavailableError, match="old state"):
        await llm.forget(tenant="default")
    assert await llm.pipeline.memory.registry.unerased() == 1
    reader.close()
    await llm.pipeline.memory.registry.erase()
    assert list(traces(tmp_path / "home", SECRET)) == []


@pytest.mark.parametrize("wrong", [{}, {"turn": 1, "session": "a"}])
async def test_it_has_to_be_said_what(open_llm: OpenLLM, wrong: dict[str, object]) -> None:
    llm = await open_llm()
    with pytest.raises(ConfigurationError, match="say what to forget"):
        await llm.forget(**wrong)  # type: ignore[arg-type]


async def test_the_command_asks_first(open_llm: OpenLLM, tmp_path: Path) -> None:
    llm = await open_llm()
    said = await filled(llm)
    await llm.aclose()
    command = ["forget", "--tenant", "acme", "--session", "talk", "--home", str(tmp_path / "home")]
    refused = await asyncio.to_thread(CliRunner().invoke, app, command, input="n\n")
    assert refused.exit_code == 1
    assert list(traces(tmp_path / "home", SECRET)) != []
    done = await asyncio.to_thread(CliRunner().invoke, app, [*command, "--yes"])
    assert "forgot 2 turns" in done.output
    assert list(traces(tmp_path / "home", SECRET)) == []
    assert said["shares"] in {turn.id for turn in await (await open_llm()).pipeline.memory.registry.browse("acme")}


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"session": "tlak", "tenant": "acme"}, r"tenant 'acme' has no session 'tlak'; is it 'talk'\?"),
        ({"session": "TALK", "tenant": "acme"}, r"is it 'talk'\?"),
        ({"session": "quite another"}, "there is no tenant 'default'"),
        ({"session": "quite another", "tenant": "acme"}, "none of its names is like it"),
        # Names of another tenant are nobody else's business.
        ({"session": "talk", "tenant": "other"}, "tenant 'other' has no session 'talk'; nothing is stored yet"),
        ({"tenant": "acmee"}, r"there is no tenant 'acmee'; is it 'acme'\?"),
        ({"turn": 77, "tenant": "acme"}, "no turn 77"),
        ({"turn": 1, "tenant": "other"}, "no turn 1"),
    ],
)
@pytest.mark.parametrize("dry_run", [True, False])
async def test_what_is_not_there_cannot_be_forgotten(
    open_llm: OpenLLM, wrong: dict[str, Any], says: str, dry_run: bool
) -> None:
    llm = await open_llm()
    await filled(llm)
    before = await llm.pipeline.memory.registry.statistics()
    with pytest.raises(NotStoredError, match=says):
        await llm.forget(**wrong, dry_run=dry_run)
    assert await llm.pipeline.memory.registry.statistics() == before
    assert await llm.pipeline.memory.registry.unerased() == 0


async def test_the_first_turn_of_a_session_that_is_not_there_yet_is_not_remembered(open_llm: OpenLLM) -> None:
    llm = await open_llm(max_new_tokens=24)
    pieces = llm.session("talk").stream(SECRET)
    await anext(pieces)
    with pytest.raises(NotStoredError):
        await llm.forget(session="talk")
    last = [piece async for piece in pieces][-1].generation
    assert last is not None
    assert last.report.turn_id is None
    assert await llm.session("talk").messages() == []


async def test_it_is_said_beforehand_what_goes_along(open_llm: OpenLLM, tmp_path: Path) -> None:
    llm = await open_llm(similarity_threshold=0.3)
    said = await filled(llm)
    history = await llm.session("talk", tenant="acme", system=HEAD["content"]).messages()
    on = await llm.generate([*history, user("and on")], tenant="acme", session="heir")
    reworded = "".join("q" if at % 11 == 5 else letter for at, letter in enumerate(SECRET))
    took = await llm.generate([user(reworded)], tenant="acme", reuse="semantic")
    assert took.report.reuse_class == "semantic"
    await llm.settle()
    before = traces_of(tmp_path / "home")
    planned = await llm.forget(tenant="acme", session="talk", dry_run=True)
    assert traces_of(tmp_path / "home") == before
    assert planned.turn_ids == (said["first"], said["second"], on.report.turn_id)
    assert planned.along == {"heir": 1}
    assert planned.lessened == (took.report.turn_id,)
    sizes = dict(llm.pipeline.memory.tiers.fast.store.entries())  # type: ignore[union-attr]
    assert planned.size_bytes == sum(sizes[key] for key in planned.keys) > 0
    # The beginning that the other turn has too stays, and it alone.
    with sqlite3.connect(tmp_path / "home" / "registry.db") as database:
        links = "SELECT block_id FROM turn_blocks WHERE turn_id"
        both = f"SELECT count(*), sum(size_bytes) FROM blocks WHERE id IN ({links} = ?) AND id IN ({links} = ?)"
        shared = database.execute(both, (said["first"], said["shares"])).fetchone()
    database.close()
    assert (planned.shared_blocks, planned.shared_bytes) == shared
    assert shared[0] > 0
    assert await llm.forget(tenant="acme", session="talk") == planned
    with pytest.raises(NotStoredError):
        await llm.forget(tenant="acme", session="talk")


def traces_of(home: Path) -> dict[str, int]:
    with sqlite3.connect(home / "registry.db") as database:
        tables = ("turns", "blocks", "turn_blocks", "sessions", "forgets", "bands", "events")
        counts = {name: database.execute(f"SELECT count(*) FROM {name}").fetchone()[0] for name in tables}
    database.close()
    return {**counts, **{p.name: p.stat().st_size for p in (home / "kv").glob("*/*.safetensors")}}


async def test_the_command_says_what_goes_and_refuses_what_is_not_there(open_llm: OpenLLM, tmp_path: Path) -> None:
    llm = await open_llm()
    await filled(llm)
    planned = await llm.forget(tenant="acme", session="talk", dry_run=True)
    await llm.aclose()
    where = ["--home", str(tmp_path / "home"), "--tenant", "acme", "--session"]

    async def ran(*arguments: str, **more: Any) -> Any:
        return await asyncio.to_thread(CliRunner().invoke, app, ["forget", *where, *arguments], **more)

    wrong = await ran("tlak", "--yes")
    assert wrong.exit_code != 0
    assert "nothing was forgotten: tenant 'acme' has no session 'tlak'; is it 'talk'?" in str(wrong.exception)
    goes = f"goes: 2 turns with {len(planned.keys)} blocks of KV, {planned.size_bytes:,} bytes"
    stays = f"stays: {planned.shared_blocks} block"
    for told in (await ran("talk", "--dry-run"), await ran("talk", input="n\n")):
        assert goes in told.output
        assert stays in told.output
    assert list(traces(tmp_path / "home", SECRET)) != []
    assert "forgot 2 turns" in (await ran("talk", "--yes")).output
    assert (await ran("talk", "--yes")).exit_code != 0


async def test_a_forgetting_that_was_interrupted_is_told_of(open_llm: OpenLLM, tmp_path: Path) -> None:
    llm = await open_llm()
    await filled(llm)
    await llm.pipeline.memory.registry.forget("acme")  # and nothing after it
    await llm.aclose()
    command = ["forget", "--tenant", "acme", "--yes", "--home", str(tmp_path / "home")]
    again = await asyncio.to_thread(CliRunner().invoke, app, command)
    assert "interrupted: `semshare verify --fix` completes it" in str(again.exception)
