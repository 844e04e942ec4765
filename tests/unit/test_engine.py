"""The engine: the most urgent work first, and whoever goes away takes his work with him."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from threading import Event

import numpy as np
import pytest
import torch

from semshare_agents.engine import Engine, Priority
from semshare_agents.model.rows import ForwardStopped
from semshare_agents.model.run import Run, Step


class Slow(Run):
    """A run whose passes last until they are let go or stopped."""

    def __init__(self) -> None:
        super().__init__(torch.device("cpu"))
        self.begun, self.go = Event(), Event()

    def compute(self, step: Step) -> torch.Tensor:
        self.begun.set()
        while not self.go.wait(0.005):
            if self.stop.is_set():
                raise ForwardStopped
        self.length = step.length
        return torch.full((step.logits, 3), float(step.length))

    def close(self) -> None:
        """Nothing is held."""


@pytest.fixture
async def engine() -> AsyncIterator[Engine]:
    made = Engine()
    yield made
    await asyncio.to_thread(made.close)


async def begun(run: Slow) -> None:
    assert await asyncio.to_thread(run.begun.wait, 5)


async def test_a_step_gives_its_logits_and_what_they_took(engine: Engine) -> None:
    run = Slow()
    run.go.set()
    timed = await engine.compute(run.whole(np.arange(4)))
    assert timed.result.tolist() == [[4.0] * 3]
    assert 0 < timed.seconds < 5
    assert run.length == 4


async def test_answers_go_before_what_may_wait(engine: Engine) -> None:
    blocking, order = Slow(), list[str]()
    first = asyncio.ensure_future(engine.compute(blocking.whole(np.arange(2))))
    await begun(blocking)
    idle = [asyncio.ensure_future(engine.call(lambda: order.append("idle"), priority=Priority.IDLE)) for _ in range(3)]
    await asyncio.sleep(0)
    answers = [asyncio.ensure_future(engine.call(lambda n=n: order.append(f"answer {n}"))) for n in range(3)]
    await asyncio.sleep(0)
    blocking.go.set()
    await asyncio.gather(first, *idle, *answers)
    assert order == ["answer 0", "answer 1", "answer 2", "idle", "idle", "idle"]


async def test_what_waits_is_taken_out_of_the_queue(engine: Engine) -> None:
    blocking, waiting = Slow(), Slow()
    first = asyncio.ensure_future(engine.compute(blocking.whole(np.arange(2))))
    await begun(blocking)
    given_up = asyncio.ensure_future(engine.compute(waiting.whole(np.arange(2))))
    await asyncio.sleep(0)
    given_up.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(given_up, 5)  # at once: the pass before it still runs
    assert not first.done()
    blocking.go.set()
    await first
    assert not waiting.begun.is_set()
    assert not waiting.stop.is_set()


async def test_a_pass_under_way_is_ended_and_awaited(engine: Engine) -> None:
    run = Slow()
    call = asyncio.ensure_future(engine.compute(run.whole(np.arange(2))))
    await begun(run)
    for _ in range(3):  # some frameworks cancel again at every step
        call.cancel()
        await asyncio.sleep(0)
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(call, 5)
    assert run.stop.is_set()
    assert run.length == 0
    assert await engine.call(lambda: "still at work") == "still at work"


async def test_errors_reach_whoever_asked(engine: Engine) -> None:
    def fails() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await engine.call(fails)
    assert await engine.call(lambda: 3) == 3


async def test_any_call_ends_what_is_done_in_idle_time(engine: Engine) -> None:
    idle, answer = Slow(), Slow()
    answer.go.set()
    repair = asyncio.ensure_future(engine.when_idle(lambda: idle.whole(np.arange(2)), idle, lambda: True))
    await begun(idle)
    assert (await engine.compute(answer.whole(np.arange(3)))).result[0, 0] == 3
    assert await asyncio.wait_for(repair, 5) is None
    assert idle.length == 0


async def test_idle_work_waits_for_quiet_and_asks_whether_it_is_wanted(engine: Engine) -> None:
    busy, idle = Slow(), Slow()
    idle.go.set()
    call = asyncio.ensure_future(engine.compute(busy.whole(np.arange(2))))
    await begun(busy)
    wanted = True
    work = asyncio.ensure_future(engine.when_idle(lambda: idle.whole(np.arange(2)), idle, lambda: wanted))
    await asyncio.sleep(0.1)
    assert not idle.begun.is_set()
    wanted = False
    busy.go.set()
    await call
    assert await asyncio.wait_for(work, 5) is None
    assert not idle.begun.is_set()


async def test_work_is_entered_within_what_is_given(engine: Engine) -> None:
    seen: list[str] = []

    class Stage:
        def __enter__(self) -> None:
            seen.append("in")

        def __exit__(self, *_: object) -> None:
            seen.append("out")

    await engine.call(lambda: seen.append("work"), within=Stage)  # type: ignore[arg-type]
    assert seen == ["in", "work", "out"]


async def test_closing_finishes_what_is_queued() -> None:
    engine, done = Engine(), list[int]()
    calls = [asyncio.ensure_future(engine.call(lambda n=n: done.append(n))) for n in range(5)]
    await asyncio.sleep(0)
    await asyncio.to_thread(engine.close)
    with suppress(RuntimeError):
        await engine.call(lambda: done.append(99))
    await asyncio.gather(*calls)
    assert done == list(range(5))
