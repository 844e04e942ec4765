"""`store: false`: whoever asks, and however the turn ends, the memory is afterwards as it was before."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from langchain_semshare import ChatSemShare, SemShareCompletion

from semshare_agents.llm import SemShareLLM
from tests import tiny
from tests.conftest import OpenLLM
from tests.serving import MODEL, client, serving
from tests.tiny import system, user

KNOWN, SECRET = tiny.words(40, 1), tiny.words(40, 2)
CHANGED = [system("be brief"), user(KNOWN), {"role": "assistant", "content": "so"}, user(SECRET)]
Ask = Callable[[SemShareLLM], Awaitable[Any]]


def memory(llm: SemShareLLM, home: Path) -> dict[str, Any]:
    """All rows, files and blocks in RAM, read beside the package."""
    with sqlite3.connect(home / "registry.db") as database:
        names = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        rows = {name: sorted(map(repr, database.execute(f"SELECT * FROM {name}"))) for name in names}
    database.close()
    files = {str(p): p.read_bytes() for p in (home / "kv").rglob("*.safetensors")}
    blocks = {tier.name: sorted(tier.store.entries()) for tier in llm.pipeline.memory.tiers.tiers}
    return {"rows": rows, "files": files, "blocks": blocks}


async def adapter(llm: SemShareLLM) -> None:
    await llm.generate(CHANGED, store=False)
    await llm.generate([user(SECRET)], store=False, tenant="nobody", session="hidden")


async def cut(llm: SemShareLLM) -> None:
    async with aclosing(llm.stream(CHANGED, store=False, max_new_tokens=200)) as pieces:
        await anext(pieces)


async def session(llm: SemShareLLM) -> None:
    await llm.session("hidden").send(SECRET, store=False)
    await llm.session("quiet", store=False).send(SECRET)


async def chat_model(llm: SemShareLLM) -> None:
    await ChatSemShare(llm=llm, store=False, session="hidden").ainvoke(SECRET, store=None)
    await ChatSemShare(llm=llm).ainvoke(SECRET, {"configurable": {"thread_id": "hidden"}}, store=False)
    async for _ in ChatSemShare(llm=llm, store=False).astream(SECRET):
        pass
    await SemShareCompletion(llm=llm, store=False).ainvoke(SECRET)


def requested(**body: Any) -> Ask:
    async def ask(llm: SemShareLLM) -> None:
        async with serving(llm) as url, client(url) as ai:
            answer = await ai.chat.completions.create(model=MODEL, messages=CHANGED, **body)  # type: ignore[arg-type]
            if body.get("stream"):
                async for _ in answer:
                    if "cut" in str(body):
                        await answer.close()
                        break

    return ask


async def completion(llm: SemShareLLM) -> None:
    async with serving(llm) as url, client(url) as ai:
        await ai.completions.create(model=MODEL, prompt=SECRET, extra_body={"semshare": {"store": False}})


HIDDEN = {"semshare": {"session": "hidden"}}
ASKED: dict[str, Ask] = {
    "adapter": adapter,
    "cut": cut,
    "session": session,
    "langchain": chat_model,
    "server": requested(store=False, extra_body=HIDDEN),
    "streamed": requested(store=False, stream=True, extra_body=HIDDEN),
    "stream cut": requested(store=False, stream=True, user="cut", max_tokens=200),
    "own field": requested(extra_body={"semshare": {"store": False}}),
    "one of two": requested(store=True, extra_body={"semshare": {"store": False}}),
    "the other": requested(store=False, extra_body={"semshare": {"store": True}}),
    "completion": completion,
}


@pytest.mark.parametrize("how", ASKED)
@pytest.mark.parametrize("more", [{}, {"retention": "constant"}], ids=["whole", "retained"])
async def test_nothing_of_it_is_kept(
    open_llm: OpenLLM, tmp_path: Path, caplog: pytest.LogCaptureFixture, how: str, more: dict[str, Any]
) -> None:
    caplog.set_level("DEBUG", "semshare_agents")
    llm = await open_llm(guard_share=1.0, repair_idle=True, repair_rows=None, log_text=True, **more)
    await llm.generate([system("be kind"), user(KNOWN)])
    await llm.settle()
    before = memory(llm, tmp_path / "home")
    assert before["files"]
    assert KNOWN in str([r.__dict__ for r in caplog.records])
    caplog.clear()
    await ASKED[how](llm)
    await llm.pipeline.engine.idle.drained()
    await llm.settle()
    assert memory(llm, tmp_path / "home") == before
    assert SECRET[:20] not in str([r.__dict__ for r in caplog.records])
    await llm.aclose()
    everything = b"".join(p.read_bytes() for p in (tmp_path / "home").rglob("*") if p.is_file())
    assert not any(trace in everything for trace in (SECRET.encode(), b"hidden", b"quiet", b"nobody"))


@pytest.mark.parametrize("body", [{}, {"store": True}, {"store": None}, {"extra_body": {"semshare": None}}])
async def test_a_turn_is_kept_where_nobody_says_otherwise(open_llm: OpenLLM, body: dict[str, Any]) -> None:
    llm = await open_llm()
    await requested(**body)(llm)
    kept = (await llm.pipeline.memory.registry.statistics())["turns"]
    assert sum(row["turns"] for row in kept.values()) == 1


async def test_a_stored_turn_is_not_told_of_what_was_not_to_be_kept(open_llm: OpenLLM, tmp_path: Path) -> None:
    llm = await open_llm()
    talk = llm.session("talk")
    await talk.send("one")
    hidden = await talk.send(SECRET, store=False)
    assert hidden.usage.prompt_tokens > len(SECRET) + len("one")
    private = await talk.send("again", store=False)
    assert private.usage.prompt_tokens > hidden.usage.prompt_tokens
    assert [m["content"] for m in await talk.messages()][::2] == ["one", SECRET, "again"]
    stored = await talk.send("two")
    assert [m["content"] for m in await talk.messages()][::2] == ["one", "two"]
    assert stored.usage.prompt_tokens < len(SECRET)
    await llm.aclose()
    everything = await asyncio.to_thread(
        lambda: b"".join(p.read_bytes() for p in (tmp_path / "home").rglob("*") if p.is_file())
    )
    assert SECRET.encode() not in everything


async def test_a_conversation_that_is_never_kept_goes_on_in_its_object(open_llm: OpenLLM) -> None:
    llm = await open_llm()
    talk = llm.session("quiet", store=False)
    first, second = await talk.send("one", store=None), await talk.send("two")
    assert second.usage.prompt_tokens > first.usage.prompt_tokens + len("two")
    assert len(await talk.messages()) == 4
    assert await llm.session("quiet").messages() == []
