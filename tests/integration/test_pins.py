"""Pins in a running memory: held under pressure, by every process that shares it, until they end."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from typer.testing import CliRunner

from semshare_agents.cli.main import app
from semshare_agents.errors import ConfigurationError, NotStoredError, PinError
from semshare_agents.llm import SemShareLLM
from semshare_agents.operate.audit import audit
from semshare_agents.store.disk import DiskStore
from tests import tiny
from tests.conftest import OpenLLM
from tests.tiny import user

SMALL = {"memory_bytes": 150_000, "disk_bytes": 300_000}
TEXT = tiny.words(40, 1)


async def press(llm: SemShareLLM, first: int, turns: int = 5) -> None:
    """More turns than the memory holds."""
    for number in range(first, first + turns):
        await llm.generate([user(tiny.words(40, number))], session=f"p{number}")
        await llm.settle()


async def reused(llm: SemShareLLM, text: str = TEXT, **more: str) -> str:
    return (await llm.generate([user(text)], store=False, **more)).report.reuse_class


async def command(*words: str | Path) -> str:
    """A command is another process as far as locks and books go."""
    result = await asyncio.to_thread(CliRunner(env={"COLUMNS": "140"}).invoke, app, [str(word) for word in words])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.output


@pytest.mark.parametrize("policy", ["lru", "ttl"])
async def test_a_pinned_session_outlives_pressure_and_an_unpinned_one_does_not(
    open_llm: OpenLLM, tmp_path: Path, policy: str
) -> None:
    llm = await open_llm(eviction=policy, ttl_seconds=0.001, **SMALL)
    talk = llm.session("talk")
    await talk.send(TEXT)
    pinned = await talk.pin(seconds=1000.0)
    await llm.settle()
    await press(llm, 2)
    assert (await audit(llm.pipeline.memory.registry, DiskStore(tmp_path / "home" / "kv"))).problems(alone=True) == 0
    assert await reused(llm) == "exact"
    assert [p.session for p in await llm.pins()] == ["talk"]
    assert pinned.blocks > 4
    for tier in llm.pipeline.memory.tiers.tiers:
        assert tier.used_bytes <= tier.budget_bytes
    assert await talk.unpin()
    await press(llm, 20, 8)
    assert await reused(llm) == "cold"


async def test_an_expired_pin_holds_nothing(open_llm: OpenLLM) -> None:
    llm = await open_llm(**SMALL)
    turn = (await llm.generate([user(TEXT)])).report.turn_id
    await llm.pin(turn=turn, seconds=1000.0)
    await press(llm, 2)
    assert await reused(llm) == "exact"
    await llm.pin(turn=turn, seconds=0.001)
    assert await llm.pins() == []
    await press(llm, 20, 8)
    assert await reused(llm) == "cold"


async def test_other_processes_honour_pins(open_llm: OpenLLM, tmp_path: Path) -> None:
    one = await open_llm(**SMALL)
    await one.session("talk", tenant="acme").send(TEXT)
    await one.flush()
    home = ("--home", tmp_path / "home")
    two = await open_llm(**SMALL)
    assert "pinned" in await command("pin", "--session", "talk", "--tenant", "acme", "--seconds", "1000", *home)
    shown = await command("pins", *home)
    assert "acme" in shown
    assert "session talk" in shown
    for llm, first in ((one, 2), (two, 20)):
        await press(llm, first)
        assert await reused(llm, tenant="acme") == "exact"
    assert await command("unpin", "--session", "talk", "--tenant", "acme", *home) == "unpinned\n"
    assert await command("unpin", "--session", "talk", "--tenant", "acme", *home) == "it was not pinned\n"
    assert await command("pins", "--tenant", "acme", *home) == "nothing is pinned\n"
    await press(two, 40, 8)
    assert await reused(two, tenant="acme") == "cold"


async def test_what_does_not_fit_is_refused(open_llm: OpenLLM, tmp_path: Path) -> None:
    llm = await open_llm(disk_bytes=60_000)  # RAM has more
    talk = llm.session("talk")
    await talk.send(TEXT)
    await llm.settle()
    with pytest.raises(PinError, match="disk_bytes"):
        await talk.pin()
    assert await llm.pins() == []
    await llm.aclose()
    again = await open_llm()
    await again.session("talk").send(TEXT)
    await again.settle()
    pinned = await again.pin(session="talk")
    await again.aclose()
    for lowered in ("tenant_bytes", "disk_bytes"):
        with pytest.raises(PinError, match=f"unpin.* raise {lowered}"):
            await open_llm(**{lowered: pinned.size_bytes - 1})
    await command("unpin", "--session", "talk", "--home", tmp_path / "home")
    assert (
        await open_llm(tenant_bytes=pinned.size_bytes - 1)
    ).pipeline.memory.tiers.slowest.used_bytes < pinned.size_bytes


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({}, "a turn or a session"),
        ({"turn": 1, "session": "talk"}, "a turn or a session"),
        ({"turn": 77}, "no turn 77"),
        ({"session": "nobody"}, "no session 'nobody'"),
        ({"session": "tlak"}, "no session 'tlak'; is it 'talk'?"),
        ({"session": "talk", "tenant": "other"}, "no tenant 'other'"),
        ({"session": "talk", "seconds": 0.0}, "positive number of seconds"),
        ({"session": "talk", "seconds": float("inf")}, "positive number of seconds"),
    ],
)
async def test_wrong_pins_are_refused(open_llm: OpenLLM, wrong: dict[str, object], says: str) -> None:
    llm = await open_llm()
    await llm.session("talk").send("hello")
    with pytest.raises(ConfigurationError, match=says):
        await llm.pin(**wrong)  # type: ignore[arg-type]
    assert await llm.pins() == []


async def test_what_is_not_there_cannot_be_unpinned(open_llm: OpenLLM, tmp_path: Path) -> None:
    llm = await open_llm()
    talk = llm.session("talk")
    await talk.send("hello")
    await talk.pin()
    for wrong in ({"session": "tlak"}, {"turn": 77}, {"session": "talk", "tenant": "nobody"}):
        with pytest.raises(NotStoredError):
            await llm.unpin(**wrong)  # type: ignore[arg-type]
    assert len(await llm.pins()) == 1
    assert [await talk.unpin(), await talk.unpin()] == [True, False]
    await llm.aclose()
    for refused in (["unpin", "--session", "tlak"], ["pins", "--tenant", "defualt"]):
        ran = await asyncio.to_thread(CliRunner().invoke, app, [*refused, "--home", str(tmp_path / "home")])
        assert isinstance(ran.exception, NotStoredError)
        assert "is it '" in str(ran.exception)


async def test_a_forgotten_session_is_no_longer_pinned(open_llm: OpenLLM) -> None:
    llm = await open_llm()
    talk = llm.session("talk")
    await talk.send(TEXT)
    await talk.pin()
    await llm.forget(session="talk")
    assert await llm.pins() == []
    assert (await llm.pipeline.memory.registry.statistics())["blocks"] == 0
