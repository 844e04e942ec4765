"""What a pass computes: running answers first, tenants in turn, and no more than there is time for."""

from __future__ import annotations

from concurrent.futures import Future
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch

from semshare_agents.engine.scheduler import LARGEST_CHUNK, LAST_ROWS, SMALLEST_CHUNK, Scheduler
from semshare_agents.engine.work import Priority, Work
from semshare_agents.model.run import Run, Step

ROW_SECONDS = 0.001


class Some(Run):
    """A run whose steps mix."""

    def __init__(self, tenant: str = "", mixes: bool = True) -> None:
        super().__init__(torch.device("cpu"))
        self.tenant, self.mixes = tenant, mixes

    @property
    def by_rows(self) -> Any:
        return self

    def compute(self, step: Step) -> torch.Tensor:
        raise AssertionError("nothing is computed here")

    def close(self) -> None:
        """Nothing is held."""


class Queue:
    """Work that waits, worked off by a scheduler."""

    def __init__(self, scheduler: Scheduler) -> None:
        self.scheduler, self.waiting, self.order = scheduler, list[Work](), 0

    def add(self, rows: int, priority: Priority = Priority.ANSWER, run: Some | None = None) -> Work:
        step = Step(run or Some(), np.zeros(rows, np.int64), np.arange(rows), rows, rows)
        self.order += 1
        work = Work(priority, self.order, Future(), nullcontext, step=step)
        self.waiting.append(work)
        return work

    def take(self, streaming: bool = False) -> list[tuple[Work, int]]:
        parts = self.scheduler.next(self.waiting, streaming)
        for part in parts:
            part.work.done += len(part.step.rows)
            assert part.finishes == (part.work.rows_left == 0)
            if part.finishes:
                self.waiting.remove(part.work)
        return [(part.work, len(part.step.rows)) for part in parts]


@pytest.fixture
def queue() -> Queue:
    scheduler = Scheduler(step_seconds=0.1)
    scheduler.predict = lambda rows: len(rows) * ROW_SECONDS
    return Queue(scheduler)


def test_tokens_go_first_and_chunks_fill_the_time(queue: Queue) -> None:
    prompt = queue.add(5000)
    tokens = [queue.add(1, Priority.STREAM) for _ in range(8)]
    taken = queue.take(streaming=True)
    assert [work for work, _ in taken] == [*tokens, prompt]
    assert 60 <= taken[-1][1] <= 92  # what is left of a hundred rows, but for the steps between sizes that are tried


def test_a_prompt_is_computed_in_large_chunks_where_nothing_runs(queue: Queue) -> None:
    prompt = queue.add(2 * LARGEST_CHUNK + 452)
    most = LARGEST_CHUNK
    assert [queue.take() for _ in range(3)] == [[(prompt, most)], [(prompt, most)], [(prompt, 452)]]


def test_short_prompts_share_a_pass(queue: Queue) -> None:
    works, whole = [queue.add(100) for _ in range(12)], LARGEST_CHUNK // 100
    assert queue.take()[:whole] == [(work, 100) for work in works[:whole]]


def test_the_end_of_a_prompt_is_computed_in_one_pass(queue: Queue) -> None:
    for rows in range(LARGEST_CHUNK - 3, LARGEST_CHUNK + LAST_ROWS + 3):
        work, last = queue.add(rows), 0
        while work.rows_left:
            ((_, last),) = queue.take()
        assert last >= LAST_ROWS


def test_tenants_take_turns(queue: Queue) -> None:
    crowd = [queue.add(2000, run=Some("crowd")) for _ in range(4)]
    other = queue.add(2000, run=Some("other"))
    order = []
    while queue.waiting:
        order.append(queue.take()[0][0])
    assert order.index(other) == 1
    assert order[: order.index(other) + 3].count(other) == 2  # every other pass is its, until it is done
    assert set(order) == {*crowd, other}


def test_steps_that_do_not_mix_go_alone(queue: Queue) -> None:
    alone = queue.add(300, run=Some(mixes=False))
    mixing = [queue.add(10), queue.add(10)]
    assert queue.take() == [(alone, 300)]
    assert [work for work, _ in queue.take()] == mixing


def test_what_may_wait_goes_last_and_alone(queue: Queue) -> None:
    idle, answer = queue.add(64, Priority.IDLE), queue.add(10)
    assert queue.take() == [(answer, 10)]
    assert queue.take() == [(idle, 64)]


def test_a_run_has_one_step_in_a_pass(queue: Queue) -> None:
    run = Some()
    first, second = queue.add(10, run=run), queue.add(10, run=run)
    assert queue.take() == [(first, 10)]
    assert queue.take() == [(second, 10)]


def test_every_pass_gets_on_however_little_time_there_is(queue: Queue) -> None:
    queue.scheduler.step_seconds = 1e-9
    prompt, passes = queue.add(100), 0
    while queue.waiting:
        assert queue.take(streaming=True)[0][1] >= SMALLEST_CHUNK
        passes += 1
    assert prompt.rows_left == 0
    assert passes > 2


def test_many_answers_carry_fewer_rows_each(queue: Queue) -> None:
    scheduler = queue.scheduler
    assert scheduler.rows_beside(128, streams=1) == 128
    assert scheduler.rows_beside(128, streams=4) * 4 * ROW_SECONDS <= scheduler.step_seconds
    assert scheduler.rows_beside(128, streams=1000) == 1
