"""The engine: the one way onto the model.

Work arrives as steps, rows of one run whose logits are wanted, and a future comes back. Steps of several runs that wait
together are computed in one pass, long ones in several. What else needs the model's thread for itself comes as calls:
blocks that are laid into a buffer, tokens that are drawn, passes that are timed.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, nullcontext, suppress
from dataclasses import replace
from itertools import count
from threading import Condition, Event
from typing import Any, Protocol, TypeVar

import torch

from semshare_agents.concurrency.idle import Idle
from semshare_agents.engine.scheduler import Part, Scheduler
from semshare_agents.engine.work import Priority, Within, Work
from semshare_agents.model.rows import ForwardStopped
from semshare_agents.model.run import Run, Step, together
from semshare_agents.timing.delays import Timed, timed

T = TypeVar("T")

STEP_SECONDS = 0.25
"""How long a pass may take while answers run, where nobody says."""
GATHER_SECONDS = 0.008
"""How long after a pass the next one waits for each of the answers that had a token in it: they share it then."""
MOST_GATHER_SECONDS = 0.04
RUNNING_SECONDS = 1.0
"""An answer counts as running for so long after its last token: its reader may have stopped reading."""


class Stoppable(Protocol):
    """What is computed for; setting `stop` ends a running forward early."""

    @property
    def stop(self) -> Event:
        """Set it from any thread."""


class Engine:
    """Runs work on the model, on one thread: calls first, then passes over the steps that wait.

    Args:
        step_seconds: How long a pass may take while answers are running.

    Attributes:
        idle: Knows when nobody waits for the model.
        scheduler: Says what a pass computes.
    """

    def __init__(self, step_seconds: float = STEP_SECONDS) -> None:
        self.idle = Idle()
        self.scheduler = Scheduler(step_seconds)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="semshare-compute")
        self._waiting: list[Work] = []
        self._order = count()
        self._arrived = Condition()
        # When the last token of each running answer came.
        self._streams: dict[Run, float] = {}

    # --- handing in work

    def submit(self, step: Step, priority: Priority = Priority.ANSWER, within: Within = nullcontext) -> Future[Any]:
        """Compute a step when its turn comes.

        Args:
            step: The rows.
            priority: Whose work goes first.
            within: Entered around it.

        Returns:
            Gives the logits as `Timed`, each `(logits, vocabulary)`; cancelling it takes the step out of the queue.
        """
        return self._submit(Work(priority, next(self._order), Future(), within, step=step))

    def _submit(self, work: Work) -> Future[Any]:
        with self._arrived:
            self._waiting.append(work)
            self._arrived.notify()
        self._thread.submit(self._work)
        return work.future

    async def compute(
        self, step: Step, within: Within = nullcontext, priority: Priority = Priority.ANSWER
    ) -> Timed[torch.Tensor]:
        """Compute a step that somebody waits for; when the caller is cancelled it is taken back, or ended and awaited.

        Returns:
            The logits, `(logits, vocabulary)`, and how long they took.
        """
        with self.idle.busy():
            return await self._awaited(self.submit(step, priority, within), step.run)

    async def call(
        self,
        work: Callable[[], T],
        run: Stoppable | None = None,
        within: Within = nullcontext,
        priority: Priority = Priority.ANSWER,
    ) -> T:
        """Run a function on the model's thread.

        Args:
            work: The function.
            run: What it works on: ended when the caller is cancelled.
            within: Entered around it.
            priority: Whose work goes first.
        """
        waiting = Work(priority, next(self._order), Future[Any](), within, call=work)
        with self.idle.busy() if priority < Priority.IDLE else nullcontext():
            return await self._awaited(self._submit(waiting), run)

    async def when_idle(
        self, step: Callable[[], Step], run: Stoppable, wanted: Callable[[], bool]
    ) -> Timed[torch.Tensor] | None:
        """Compute a step once nobody waits for the model; any call that comes ends it.

        Args:
            step: Makes the step when its time has come.
            run: Whose it is.
            wanted: Whether it is still wanted then.

        Returns:
            As `compute`; None where it is not wanted any more, or a call ended it.
        """
        await self.idle.quiet()
        if not wanted():
            return None
        run.stop.clear()
        with self.idle.background(run.stop), suppress(ForwardStopped):
            return await asyncio.wrap_future(self.submit(step(), Priority.IDLE))
        return None

    @property
    def running(self) -> bool:
        """Whether answers are running: who comes now may not hold them up."""
        with self._arrived:
            return self._running()

    def over(self, run: Run) -> None:
        """An answer has its last token: no pass waits for another."""
        with self._arrived:
            self._streams.pop(run, None)
            self._arrived.notify()

    def rows_beside(self, most: int) -> int:
        """How many rows beside its token a running answer's step may carry now, of `most`."""
        return self.scheduler.rows_beside(most, len(self._streams))

    @staticmethod
    async def _awaited(future: Future[T], run: Stoppable | None) -> T:
        waiting = asyncio.wrap_future(future)
        try:
            return await asyncio.shield(waiting)
        except asyncio.CancelledError:
            if not future.cancel() and run is not None:
                run.stop.set()
            # Some frameworks cancel again at every step; the buffer may not be freed under a running forward.
            while not waiting.done():
                with suppress(asyncio.CancelledError):
                    await asyncio.wait([waiting])
            if not waiting.cancelled():
                waiting.exception()
            raise

    def close(self) -> None:
        """Finish what is queued and end the thread."""
        self._thread.shutdown()

    # --- on the engine's thread

    def _work(self) -> None:
        """Work until nothing waits."""
        while True:
            with self._arrived:
                call, parts = self._take()
            if call is not None:
                self._call(call)
            elif parts:
                self._pass(parts)
            else:
                return

    def _take(self) -> tuple[Work | None, list[Part]]:
        """The most urgent call, else the next pass; neither where nothing waits."""
        while True:
            self._drop_ended()
            steps = [work for work in self._waiting if work.step is not None]
            urgent = any(work.priority < Priority.IDLE for work in steps)
            calls = [w for w in self._waiting if w.call is not None and not (urgent and w.priority is Priority.IDLE)]
            if calls:
                call = min(calls, key=lambda work: (work.priority, work.order))
                self._waiting.remove(call)
                if call.future.set_running_or_notify_cancel():
                    return call, []
            elif not steps:
                return None, []
            elif urgent and (soon := self._gathering(steps)) > 0:
                self._arrived.wait(soon)
            elif parts := self._begun(self.scheduler.next(steps, self._running())):
                return None, parts

    def _drop_ended(self) -> None:
        """Let go of what nobody waits for any more."""
        for work in list(self._waiting):
            stopped = work.step is not None and work.step.run.stop.is_set()
            if not stopped and not work.future.cancelled():
                continue
            self._waiting.remove(work)
            if work.begun or work.future.set_running_or_notify_cancel():
                work.future.set_exception(ForwardStopped())

    def _begun(self, parts: Sequence[Part]) -> list[Part]:
        """Those parts of a pass whose work is still wanted; what they finish waits no longer."""
        wanted = [part for part in parts if part.work.begun or part.work.future.set_running_or_notify_cancel()]
        for part in parts:
            if part.finishes or part not in wanted:
                self._waiting.remove(part.work)
        return wanted

    def _running(self) -> bool:
        """Whether answers are running."""
        since = time.monotonic() - RUNNING_SECONDS
        self._streams = {run: last for run, last in self._streams.items() if last > since}
        return bool(self._streams)

    def _gathering(self, steps: Sequence[Work]) -> float:
        """How long the next tokens of running answers may still be waited for, in seconds."""
        here = {work.step.run for work in steps if work.step is not None}
        late = [last for run, last in self._streams.items() if run not in here]
        patience = min(GATHER_SECONDS * len(self._streams), MOST_GATHER_SECONDS)
        return max(late, default=0.0) + patience - time.monotonic()

    @staticmethod
    def _call(work: Work) -> None:
        assert work.call is not None
        try:
            with work.within():
                result = work.call()
        except BaseException as e:
            work.future.set_exception(e)
        else:
            work.future.set_result(result)

    def _pass(self, parts: Sequence[Part]) -> None:
        """Compute one pass and tell those whose work is done."""
        steps = [part.step for part in parts]
        try:
            with ExitStack() as stages:
                for part in parts:
                    stages.enter_context(part.work.within())
                # What answers compute is kept where they break off; what is done in idle time ends at once.
                keeps = parts[0].work.priority < Priority.IDLE
                took = timed(lambda: _computed(steps, keeps), steps[0].run.device)
        except BaseException as e:
            self._failed(parts, e)
            return
        with self._arrived:
            now = time.monotonic()
            for part in parts:
                # Whose prompt is done has an answer that begins.
                if part.finishes and part.work.priority < Priority.IDLE:
                    self._streams[part.step.run] = now
        for part, logits in zip(parts, took.result, strict=True):
            part.work.add(replace(took, shared=len(parts) > 1))
            part.work.done += len(part.step.rows)
            if part.finishes:
                part.work.finish(logits)

    def _failed(self, parts: Sequence[Part], error: BaseException) -> None:
        """A pass failed: where it was one of several runs, the others' rows are computed all the same."""
        if len(parts) > 1 and not isinstance(error, ForwardStopped):
            for part in parts:
                self._pass([part])
            return
        with self._arrived:
            for part in parts:
                if part.work in self._waiting:
                    self._waiting.remove(part.work)
        for part in parts:
            part.work.future.set_exception(error)


class _AllStopped:
    """A pass ends early where none of its runs is wanted any more."""

    def __init__(self, steps: Sequence[Step]):
        self._steps = steps

    def is_set(self) -> bool:
        return all(step.run.stop.is_set() for step in self._steps)


def _computed(steps: Sequence[Step], keeps: bool) -> list[torch.Tensor]:
    first = steps[0]
    if len(steps) == 1 and not (keeps and first.mixes):
        return [first.run.compute(first)]
    return together(steps, first.run.stop if len(steps) == 1 else _AllStopped(steps), keeps)
