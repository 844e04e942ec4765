"""What the next pass computes: rows of many runs, as many as fit into its time."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

import numpy as np

from semshare_agents.engine.work import Priority, Work
from semshare_agents.model.run import Step
from semshare_agents.values import Ints

LARGEST_CHUNK = 512
"""Most rows that a pass computes of a prompt: from there on larger ones are hardly faster, and who comes next waits."""
UNPRICED_CHUNK = 128
"""Of a pass whose time nobody can predict."""
SMALLEST_CHUNK = 16
LAST_ROWS = 32
"""The last part of a step has so many rows: what the end of a prompt looks at is watched in one pass."""
MOST_TENANTS = 1024
"""Of so many it is known when they were served last; of others it was longer ago."""
GROWTH = 1.25
"""Chunk sizes that are tried differ by this factor."""


@dataclass(frozen=True)
class Part:
    """Rows of one piece of work that a pass computes.

    Attributes:
        work: Whose rows.
        step: The rows.
        finishes: Whether the work is done then.
    """

    work: Work
    step: Step
    finishes: bool


class Scheduler:
    """Puts steps that wait into passes.

    Tokens of running answers go first, then prompts in order of their arrival, a tenant's after another tenant's, then
    what may wait. While answers are running no pass is predicted to take longer than they may be kept waiting.

    Args:
        step_seconds: How long a pass may take while answers are running.

    Attributes:
        predict: What a pass over rows, positions of shape `(rows,)`, takes in seconds; None while nobody knows.
    """

    def __init__(self, step_seconds: float):
        self.step_seconds = step_seconds
        self.predict: Callable[[Ints], float] | None = None
        self._passes = 0
        self._served: dict[str, int] = {}

    def next(self, waiting: Collection[Work], streaming: bool) -> list[Part]:
        """The parts of the next pass; steps that do not mix go alone.

        Args:
            waiting: Steps, at least one.
            streaming: Whether answers are running.
        """
        ordered = sorted(waiting, key=self._place)
        first = ordered[0]
        assert first.step is not None
        self._passes += 1
        if not first.step.mixes or first.priority is Priority.IDLE:
            self._serve(first)
            return [Part(first, first.step, True)]
        parts: list[Part] = []
        rows: list[Ints] = []
        left = LARGEST_CHUNK
        for work in ordered:
            step = work.step
            if step is None or not step.mixes or work.priority is Priority.IDLE or left <= 0:
                continue
            if any(part.step.run is step.run for part in parts):
                continue  # one step of a run after the other
            count = work.rows_left
            # The rows of which logits are wanted are computed in one pass.
            if work.priority is not Priority.STREAM and step.logits <= LAST_ROWS:
                count = self._fitting(work, rows, left, streaming, alone=not parts)
            if count:
                finishes = count == work.rows_left
                parts.append(Part(work, step.cut(work.done, work.done + count), finishes))
                rows.append(step.rows[work.done : work.done + count])
                left -= count
                self._serve(work)
        return parts

    def rows_beside(self, most: int, streams: int) -> int:
        """How many rows beside its token a running answer's step may carry, of `most`, with so many answers running."""
        if self.predict is None or streams <= 1:
            return most
        count, share = most, self.step_seconds / streams
        while count > 1 and self.predict(np.arange(count + 1)) > share:
            count //= 2
        return count

    def _place(self, work: Work) -> tuple[int, int, int]:
        assert work.step is not None
        tenant = self._served.get(work.step.run.tenant, 0) if work.priority is not Priority.STREAM else 0
        return work.priority, tenant, work.order

    def _serve(self, work: Work) -> None:
        assert work.step is not None
        if work.priority is not Priority.STREAM:
            self._served.pop(work.step.run.tenant, None)
            self._served[work.step.run.tenant] = self._passes
            if len(self._served) > MOST_TENANTS:
                del self._served[next(iter(self._served))]

    def _fitting(self, work: Work, beside: list[Ints], left: int, streaming: bool, alone: bool) -> int:
        """How many of a step's next rows the pass has time for; 0 for none."""
        assert work.step is not None
        most = min(work.rows_left, left)
        if streaming:
            most = min(most, self._in_time(work.step.rows[work.done :], beside, most))
        if most < SMALLEST_CHUNK and most < work.rows_left:
            if not alone:
                return 0
            most = min(SMALLEST_CHUNK, work.rows_left)
        behind = work.rows_left - most
        if 0 < behind < LAST_ROWS:
            # Rather a little more now than too little at the end.
            whole = most > LAST_ROWS * 2 or work.rows_left <= LAST_ROWS + SMALLEST_CHUNK
            return work.rows_left if whole else work.rows_left - LAST_ROWS
        return most

    def _in_time(self, rows: Ints, beside: list[Ints], most: int) -> int:
        """How many of the first rows a pass can compute in `step_seconds` beside others."""
        if self.predict is None:
            return min(most, UNPRICED_CHUNK)
        others = np.concatenate(beside) if beside else np.zeros(0, np.int64)
        count = float(most)
        while count >= SMALLEST_CHUNK:
            if self.predict(np.concatenate((others, rows[: int(count)]))) <= self.step_seconds:
                return int(count)
            count /= GROWTH
        return 0
