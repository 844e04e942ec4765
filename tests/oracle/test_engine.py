"""Steps of many runs in one pass, and long ones in several, equal each run's alone."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from semshare_agents.engine import Engine, Priority
from semshare_agents.engine.scheduler import LARGEST_CHUNK
from semshare_agents.kv.layout import put, take
from semshare_agents.model.run import RowRun, Step
from semshare_agents.model.runs import Runs
from semshare_agents.values import Ints
from tests import tiny

FAMILIES = ["llama", "qwen3", "gemma2", "phi3", "gpt2", "granite"]
CLOSE = {"rtol": 1e-3, "atol": 1e-3}


@pytest.fixture
async def engine() -> AsyncIterator[Engine]:
    made = Engine(step_seconds=0.05)
    yield made
    await asyncio.to_thread(made.close)


def prompt(tokens: int, seed: int) -> Ints:
    return np.random.default_rng(seed).integers(3, tiny.VOCABULARY, tokens)


def until(true: Callable[[], object]) -> None:
    """Wait for something that another thread brings about."""
    while not true():
        time.sleep(0.0005)


async def held_up(engine: Engine, work: list[tuple[Step, Priority]]) -> list[torch.Tensor]:
    """Steps that all wait when the engine gets to them."""
    gate = asyncio.Event()
    loop = asyncio.get_running_loop()
    first = asyncio.ensure_future(
        engine.call(lambda: asyncio.run_coroutine_threadsafe(gate.wait(), loop).result(timeout=10))
    )
    await asyncio.sleep(0.02)
    waiting = [asyncio.ensure_future(engine.compute(step, priority=priority)) for step, priority in work]
    await asyncio.sleep(0.02)
    gate.set()
    await first
    return [took.result for took in await asyncio.gather(*waiting)]


@pytest.mark.parametrize("family", FAMILIES)
async def test_a_mixed_pass_equals_each_run_alone(engine: Engine, family: str) -> None:
    model = tiny.loaded(family)
    runs = Runs(model)
    assert model.support.rows is not None
    assert model.support.rows.mixes

    def made() -> tuple[list[RowRun], list[tuple[Step, Priority]]]:
        cold, token, repair, moved = (runs.by_rows(400) for _ in range(4))
        token.cold(prompt(90, 1))
        repair.cold(prompt(120, 2))
        repair.exact = 40  # as if the rest were another's
        moved.cold(prompt(70, 3))
        some = np.array([5, 6, 7, 30, 31, 68, 69])
        return [cold, token, repair, moved], [
            (cold.whole(prompt(200, 4)), Priority.ANSWER),
            (token.next(7), Priority.STREAM),
            (repair.again(30), Priority.ANSWER),
            (moved.part(prompt(70, 3), some, 5), Priority.ANSWER),
        ]

    alone, steps = made()
    wanted = [step.run.compute(step) for step, _ in steps]
    mixed, steps = made()
    found = await held_up(engine, steps)
    for a, b, one, other in zip(wanted, found, alone, mixed, strict=True):
        torch.testing.assert_close(a, b, **CLOSE)
        assert (one.length, one.exact) == (other.length, other.exact)
        torch.testing.assert_close(take(one.buffer, 0, one.length), take(other.buffer, 0, other.length), **CLOSE)
    for run in (*alone, *mixed):
        run.close()


@pytest.mark.parametrize("family", ["llama", "gemma2"])
async def test_a_prefill_in_chunks_equals_one_pass(engine: Engine, family: str) -> None:
    runs, tokens = Runs(tiny.loaded(family)), prompt(LARGEST_CHUNK + 500, 5)
    one, other = runs.by_rows(2000), runs.by_rows(2000)
    wanted = one.cold(tokens)
    reached: list[int] = []
    engine.scheduler.predict = lambda rows: len(rows) / 5000
    found = asyncio.ensure_future(engine.compute(other.whole(tokens)))
    while not found.done():
        reached.append(other.exact)
        await asyncio.sleep(0.001)
    torch.testing.assert_close((await found).result[-1], wanted, **CLOSE)
    torch.testing.assert_close(take(one.buffer, 0, len(tokens)), take(other.buffer, 0, len(tokens)), **CLOSE)
    assert reached == sorted(reached)
    assert 0 < sorted(set(reached))[1] < len(tokens)  # a chunk's rows are there before the last one's
    one.close()
    other.close()


async def test_cancelling_one_keeps_what_it_has_and_the_others_rows(engine: Engine) -> None:
    runs, tokens = Runs(tiny.loaded("llama")), prompt(1900, 6)
    leaving, staying, alone = (runs.by_rows(2000) for _ in range(3))
    wanted = alone.cold(prompt(800, 7))
    going = asyncio.ensure_future(engine.compute(leaving.whole(tokens)))
    await asyncio.to_thread(until, lambda: leaving.exact)
    other = asyncio.ensure_future(engine.compute(staying.whole(prompt(800, 7))))
    await asyncio.sleep(0)
    going.cancel()
    with suppress(asyncio.CancelledError):
        await going
    torch.testing.assert_close((await other).result[-1], wanted, **CLOSE)
    kept = leaving.exact
    assert 0 < kept <= len(tokens)
    alone.cold(tokens[:kept])
    torch.testing.assert_close(take(leaving.buffer, 0, kept), take(alone.buffer, 0, kept), **CLOSE)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_schedule_gives_each_run_its_own_answer(data: st.DataObject) -> None:
    """Prompts of any lengths arrive at any time, some are cancelled; who stays answers as alone."""
    count = data.draw(st.integers(2, 5))
    lengths = [data.draw(st.integers(1, 260)) for _ in range(count)]
    pauses = [data.draw(st.integers(0, 3)) for _ in range(count)]
    leaves = [data.draw(st.booleans()) and data.draw(st.booleans()) for _ in range(count)]
    runs = Runs(tiny.loaded("llama"))

    async def answer(engine: Engine, seed: int) -> list[int]:
        run = runs.by_rows(lengths[seed] + 6)
        run.tenant = str(seed % 2)
        try:
            for _ in range(pauses[seed]):
                await asyncio.sleep(0)
            tokens: list[int] = []
            logits = (await engine.compute(run.whole(prompt(lengths[seed], seed)))).result[-1]
            for _ in range(5):
                tokens.append(int(logits.argmax()))
                logits = (await engine.compute(run.next(tokens[-1]), priority=Priority.STREAM)).result[-1]
            return tokens
        finally:
            engine.over(run)
            run.close()

    def alone(seed: int) -> list[int]:
        run, tokens = runs.by_rows(lengths[seed] + 6), list[int]()
        logits = run.cold(prompt(lengths[seed], seed))
        for _ in range(5):
            tokens.append(int(logits.argmax()))
            logits = run.step(tokens[-1])
        run.close()
        return tokens

    async def all_of_them() -> list[list[int] | BaseException]:
        engine = Engine(step_seconds=0.01)
        engine.scheduler.predict = lambda rows: len(rows) / 4000
        tasks = [asyncio.ensure_future(answer(engine, seed)) for seed in range(count)]
        await asyncio.sleep(0.003)
        for task, goes in zip(tasks, leaves, strict=True):
            if goes:
                task.cancel()
        try:
            return await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 60)
        finally:
            await asyncio.to_thread(engine.close)

    for seed, found in enumerate(asyncio.run(all_of_them())):
        if not (leaves[seed] and isinstance(found, asyncio.CancelledError)):
            assert found == alone(seed)


async def test_a_pass_that_fails_for_one_is_computed_for_the_others(engine: Engine) -> None:
    runs = Runs(tiny.loaded("llama"))
    good, bad = runs.by_rows(100), runs.by_rows(100)
    wanted = good.cold(prompt(30, 1))
    step = bad.whole(prompt(40, 2))
    bad.close()  # its buffer is gone

    async def failing() -> None:
        with pytest.raises(AssertionError, match="closed"):
            await engine.compute(step)

    trying = asyncio.ensure_future(failing())
    (found,) = await held_up(engine, [(good.whole(prompt(30, 1)), Priority.ANSWER)])
    await trying
    torch.testing.assert_close(found[-1], wanted, **CLOSE)
    put(good.buffer, 0, take(good.buffer, 0, 1))
