"""Streaming, cancellation, many sessions at once, and an event loop that is never blocked."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import aclosing
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from blockbuster import BlockBuster, BlockingError, blockbuster_ctx

import semshare_agents
from semshare_agents.llm import SemShareLLM
from semshare_agents.model.loading import LoadedModel
from tests import tiny
from tests.conftest import OpenLLM
from tests.tiny import assistant, system, user

LONG = " ".join(tiny.words(30, seed) for seed in range(4))


@pytest.fixture
def loop_guard(measured_speeds: Callable[[LoadedModel], Path]) -> Iterator[BlockBuster]:
    """Any blocking call of the package on the event loop raises."""
    measured_speeds(tiny.loaded("llama"))
    with blockbuster_ctx(scanned_modules=[semshare_agents]) as guard:
        for function in guard.functions.values():
            # Migrations have a thread and a loop of their own, which they may block.
            function.can_block_in("registry/schema.py", {"_in_one_transaction", "_migrate"})
        yield guard


class Gate:
    """Holds a function on its thread until it is let go."""

    def __init__(self, function: Any, after: int = 0):
        self.function, self.after, self.calls = function, after, 0
        self.entered, self.release = Event(), Event()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.calls += 1
        if self.calls > self.after:
            self.entered.set()
            assert self.release.wait(20)
        return self.function(*args, **kwargs)


async def test_the_guard_does_catch_blocking_calls(loop_guard: BlockBuster, tmp_path: Path) -> None:
    from semshare_agents.store import DiskStore

    with pytest.raises(BlockingError):
        DiskStore(tmp_path / "kv")


async def test_the_loop_is_never_blocked(loop_guard: BlockBuster, open_llm: OpenLLM) -> None:
    llm = await open_llm()
    first = [system("be brief"), user(LONG)]
    one = await llm.generate(first)
    two = await llm.generate([*first, assistant(one.text), user("go on")])
    assert two.report.reuse_class == "exact"
    moved = await llm.generate([system("be long"), user(LONG)], reuse="semantic")
    assert moved.report.tokens["moved"] > 0
    session = llm.session("alice")
    assert [p.text async for p in session.stream("hello")]
    await llm.flush()
    await llm.aclose()
    again = await open_llm()
    assert (await again.generate(first)).report.reuse_class == "exact"
    await again.aclose()


async def test_the_loop_turns_while_the_model_computes(open_llm: OpenLLM, monkeypatch: pytest.MonkeyPatch) -> None:
    llm = await open_llm()
    rows = llm.pipeline.model.support.rows
    assert rows is not None
    gate = Gate(rows.together)
    monkeypatch.setattr(rows, "together", gate)
    task = asyncio.create_task(llm.generate([user(LONG)]))
    assert await asyncio.to_thread(gate.entered.wait, 20)
    for _ in range(50):
        await asyncio.sleep(0)
    assert not task.done()
    gate.release.set()
    assert (await task).text


async def test_pieces_add_up_to_the_text(open_llm: OpenLLM) -> None:
    llm = await open_llm()
    pieces = [p async for p in llm.stream([user("tell me")], max_new_tokens=30)]
    generation = pieces[-1].generation
    assert generation is not None
    assert all(p.generation is None for p in pieces[:-1])
    assert "".join(p.text for p in pieces) == generation.text
    assert generation.text == llm.pipeline.model.tokenizer.decode(generation.tokens, skip_special_tokens=True)
    assert len(pieces) > 10
    assert generation.finish_reason == "length"
    assert generation.usage.completion_tokens == len(generation.tokens) == 30


async def test_a_stop_string_of_many_tokens_ends_the_answer(open_llm: OpenLLM) -> None:
    llm = await open_llm()
    whole = await llm.generate([user("tell me")], max_new_tokens=30)
    stop = whole.text[10:14]
    at = whole.text.find(stop)
    cut = await llm.generate([user("tell me")], max_new_tokens=30, stop=stop)
    assert cut.text == whole.text[:at]
    assert cut.finish_reason == "stop"
    assert len(cut.tokens) == at + len(stop)
    pieces = [p.text async for p in llm.stream([user("tell me")], max_new_tokens=30, stop=[stop, "§"])]
    assert "".join(pieces) == cut.text


async def test_seeded_sampling_repeats_and_seeds_differ(open_llm: OpenLLM) -> None:
    llm = await open_llm()
    hot: dict[str, Any] = {"temperature": 1.5, "max_new_tokens": 20}
    one, same, other = [await llm.generate([user("tell me")], seed=s, **hot) for s in (1, 1, 2)]
    assert same.report.reuse_class == "exact"
    assert one.tokens == same.tokens
    assert one.tokens != other.tokens


def is_free(llm: SemShareLLM) -> bool:
    """Nothing is leased and every buffer is back."""
    pool = llm.pipeline.loader.runs.pool
    assert pool is not None
    return not llm.pipeline.memory.tiers.leases._count


def watched_buffers(llm: SemShareLLM, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Counts buffers in use: one list entry each."""
    pool = llm.pipeline.loader.runs.pool
    assert pool is not None
    out: list[int] = []
    acquire, release = pool.acquire, pool.release

    def acquired(tokens: int) -> Any:
        buffer = acquire(tokens)
        out.append(buffer.data_ptr())
        return buffer

    def released(buffer: Any) -> None:
        out.remove(buffer.data_ptr())
        release(buffer)

    monkeypatch.setattr(pool, "acquire", acquired)
    monkeypatch.setattr(pool, "release", released)
    return out


@pytest.mark.parametrize("after", [0, 3], ids=["prefill", "decoding"])
async def test_cancelling_frees_everything(open_llm: OpenLLM, monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    # A step a token: an answer that was given before would be drafted.
    llm = await open_llm(drafts=False)
    messages = [user(LONG)]
    expected = await llm.generate(messages, max_new_tokens=10)
    await llm.flush()
    out = watched_buffers(llm, monkeypatch)
    rows = llm.pipeline.model.support.rows
    assert rows is not None
    gate = Gate(rows.together, after)
    monkeypatch.setattr(rows, "together", gate)
    task = asyncio.create_task(llm.generate(messages, max_new_tokens=10))
    assert await asyncio.to_thread(gate.entered.wait, 20)
    assert len(out) == 1
    task.cancel()
    await asyncio.sleep(0.02)
    assert not task.done(), "the buffer must not go back while a forward still writes to it"
    gate.release.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    await llm.flush()  # what it has computed is kept
    assert out == []
    assert is_free(llm)
    monkeypatch.setattr(rows, "together", gate.function)
    turns = (await llm.pipeline.memory.registry.statistics())["turns"]
    assert sum(t["turns"] for t in turns.values()) == 1
    again = await llm.generate(messages, max_new_tokens=10)
    assert again.tokens == expected.tokens
    assert out == []


async def test_cancelling_while_loading_frees_everything(open_llm: OpenLLM, monkeypatch: pytest.MonkeyPatch) -> None:
    llm = await open_llm()
    messages = [user(LONG)]
    expected = await llm.generate(messages)
    await llm.flush()
    out = watched_buffers(llm, monkeypatch)
    gate = Gate(llm.pipeline.memory.tiers.load)
    monkeypatch.setattr(llm.pipeline.memory.tiers, "load", gate)
    task = asyncio.create_task(llm.generate(messages))
    assert await asyncio.to_thread(gate.entered.wait, 20)
    assert not is_free(llm)
    task.cancel()
    gate.release.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    await llm.flush()  # what it has computed is kept
    assert out == []
    assert is_free(llm)
    monkeypatch.setattr(llm.pipeline.memory.tiers, "load", gate.function)
    assert (await llm.generate(messages)).tokens == expected.tokens


async def test_breaking_off_a_stream_frees_everything(open_llm: OpenLLM, monkeypatch: pytest.MonkeyPatch) -> None:
    llm = await open_llm()
    out = watched_buffers(llm, monkeypatch)
    session = llm.session("alice")
    async with aclosing(session.stream("tell me", max_new_tokens=200)) as pieces:
        async for _ in pieces:
            assert len(out) == 1
            break
    await llm.flush()
    assert out == []
    assert is_free(llm)
    assert await session.messages() == []
    answer = await session.send("tell me")
    assert len(await session.messages()) == 2
    assert answer.text


async def test_a_cancelled_turn_lets_others_finish(open_llm: OpenLLM) -> None:
    llm = await open_llm()
    expected = await llm.generate([user("one")], max_new_tokens=10, store=False)
    victim = asyncio.create_task(llm.generate([user(LONG)], max_new_tokens=400))
    await asyncio.sleep(0.05)
    other = asyncio.create_task(llm.generate([user("one")], max_new_tokens=10))
    victim.cancel()
    assert (await other).tokens == expected.tokens
    with pytest.raises(asyncio.CancelledError):
        await victim


async def test_many_sessions_at_once_answer_as_one_after_another(open_llm: OpenLLM, tmp_path: Path) -> None:
    topics = [tiny.words(20, 200 + i) for i in range(12)]
    follow_ups = [tiny.words(4, 300 + i) for i in range(12)]

    async def talk(llm: SemShareLLM, i: int) -> list[tuple[int, ...]]:
        session = llm.session(f"s{i}", system=f"you are number {i}", tenant=f"tenant {i % 3}")
        first = await session.send(topics[i], reuse="exact")
        second = await session.send(follow_ups[i], reuse="exact")
        assert second.report.tokens["exact"] >= first.usage.prompt_tokens
        assert second.report.misses == 0
        return [first.tokens, second.tokens]

    together = await open_llm()
    found = await asyncio.gather(*(talk(together, i) for i in range(12)))
    alone = await open_llm(home=tmp_path / "other")
    expected = [await talk(alone, i) for i in range(12)]
    assert found == expected
    assert is_free(together)
    for i in range(12):
        history = await together.session(f"s{i}", tenant=f"tenant {i % 3}").messages()
        assert [m["content"] for m in history if m["role"] == "user"] == [topics[i], follow_ups[i]]


async def test_turns_of_one_session_follow_one_another(open_llm: OpenLLM) -> None:
    llm = await open_llm()
    session = llm.session("alice")
    await asyncio.gather(*(session.send(f"message {i}") for i in range(4)))
    roles = [m["role"] for m in await session.messages()]
    assert roles == ["user", "assistant"] * 4


async def test_equal_prompts_at_once_agree(open_llm: OpenLLM) -> None:
    llm = await open_llm()
    answers = await asyncio.gather(*(llm.generate([user(LONG)]) for _ in range(6)))
    assert len({a.tokens for a in answers}) == 1
    await llm.flush()
    blocks = await llm.pipeline.memory.registry.blocks()
    assert all(durable for _, durable in blocks)


async def test_closing_waits_for_what_is_being_written(open_llm: OpenLLM) -> None:
    llm = await open_llm()
    await llm.generate([user(LONG)])
    await llm.aclose()
    durable = llm._work.pipeline.memory.tiers.durable if llm._work is not None else None
    assert durable is not None
    assert len(list(durable.store.entries())) == len(durable) > 20


async def test_a_failing_registry_keeps_the_answer(open_llm: OpenLLM, monkeypatch: pytest.MonkeyPatch) -> None:
    from semshare_agents.errors import RegistryError

    llm = await open_llm()

    async def refuse(*_: object) -> int:
        raise RegistryError("no")

    monkeypatch.setattr(llm.pipeline.memory.registry, "add_turn", refuse)
    answer = await llm.generate([user("tell me")])
    assert answer.text
    assert answer.report.turn_id is None


async def test_two_adapters_on_one_home_see_what_is_on_disk(open_llm: OpenLLM) -> None:
    one, two = await open_llm(), await open_llm()
    expected = await one.generate([user(LONG)])
    await one.flush()
    found = await two.generate([user(LONG)])
    assert found.report.reuse_class == "exact"
    assert found.report.misses == 0
    assert found.tokens == expected.tokens
