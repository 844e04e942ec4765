"""The engine: the one way onto the model.

Work arrives as steps, rows of one run whose logits are wanted, and a future comes back. What else needs the model's
thread for itself comes as calls: blocks that are laid into a buffer, tokens that are drawn, passes that are timed.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext, suppress
from enum import IntEnum
from itertools import count
from threading import Event, Lock
from typing import Any, Protocol, TypeVar

import torch

from semshare_agents.concurrency.idle import Idle
from semshare_agents.model.rows import ForwardStopped
from semshare_agents.model.run import Step
from semshare_agents.timing.delays import Timed, timed

T = TypeVar("T")
Within = Callable[[], AbstractContextManager[Any]]
"""Entered on the engine's thread around the work: a stage of a turn's clock, say."""


class Priority(IntEnum):
    """Whose work goes first."""

    ANSWER = 0
    """Somebody waits for it."""
    IDLE = 1
    """It may wait: repair, drift samples, measuring."""


class Stoppable(Protocol):
    """What is computed for; setting `stop` ends a running forward early."""

    @property
    def stop(self) -> Event:
        """Set it from any thread."""


class Engine:
    """Runs work on the model, one piece after another on one thread: of what waits the most urgent first.

    Attributes:
        idle: Knows when nobody waits for the model.
    """

    def __init__(self) -> None:
        self.idle = Idle()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="semshare-compute")
        self._waiting: list[tuple[Priority, int, Future[Any], Callable[[], Any]]] = []
        self._order = count()
        self._lock = Lock()

    def submit(self, step: Step, priority: Priority = Priority.ANSWER, within: Within = nullcontext) -> Future[Any]:
        """Compute a step when its turn comes.

        Args:
            step: The rows.
            priority: Whose work goes first.
            within: Entered around it.

        Returns:
            Gives the logits as `Timed`, each `(logits, vocabulary)`; cancelling it takes the step out of the queue.
        """
        return self._submit(lambda: _computed(step), priority, within)

    def _submit(self, work: Callable[[], Any], priority: Priority, within: Within) -> Future[Any]:
        future: Future[Any] = Future()

        def ran() -> Any:
            with within():
                return work()

        with self._lock:
            heapq.heappush(self._waiting, (priority, next(self._order), future, ran))
        # As many runs of `_next` as there is work; each takes what is most urgent then.
        self._thread.submit(self._next)
        return future

    def _next(self) -> None:
        with self._lock:
            *_, future, work = heapq.heappop(self._waiting)
        if not future.set_running_or_notify_cancel():
            return
        try:
            result = work()
        except BaseException as e:
            future.set_exception(e)
        else:
            future.set_result(result)

    async def compute(self, step: Step, within: Within = nullcontext) -> Timed[torch.Tensor]:
        """Compute a step that somebody waits for; when the caller is cancelled it is taken back, or ended and awaited.

        Returns:
            The logits, `(logits, vocabulary)`, and how long they took.
        """
        with self.idle.busy():
            return await self._awaited(self.submit(step, within=within), step.run)

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
        with self.idle.busy() if priority is Priority.ANSWER else nullcontext():
            return await self._awaited(self._submit(work, priority, within), run)

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


def _computed(step: Step) -> Timed[torch.Tensor]:
    return timed(lambda: step.run.compute(step), step.run.device)
