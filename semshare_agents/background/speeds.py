"""Measures speeds again in idle time: those that were measured beside others, and those that turns put in question."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import nullcontext, suppress
from functools import partial
from threading import Event

from semshare_agents.concurrency import threads
from semshare_agents.engine import Engine, Priority
from semshare_agents.model.rows import ForwardStopped
from semshare_agents.observe.observers import TurnSeen
from semshare_agents.registry import DriftSample
from semshare_agents.reuse.cost import CostModel
from semshare_agents.reuse.measure import Measuring, Step
from semshare_agents.reuse.speeds import Measurement

log = logging.getLogger(__name__)

AGAIN_SECONDS = 10.0
"""How soon it is tried again on a machine that was busy."""
LONGEST_AGAIN_SECONDS = 60.0
SURE_SECONDS = 3600.0
"""What was measured on a quiet machine is not questioned again so soon, unless it turned out to be wrong."""
STALE_SECONDS = 30 * 86400.0
PATIENCE_SECONDS = 30.0
"""Where callers leave no idle time, passes take turns with theirs after so long."""
DISTURBED_STEPS = 2
"""After so many disturbed passes the machine is busy: it is left alone for a while."""


class Remeasurer:
    """Keeps a cost model's speeds true. All methods belong on the event loop's thread.

    Args:
        engine: The way onto the model.
        measuring: Begins a measurement.
        cost: Whose speeds.
        keep: Keeps what was learned; may block, and raises `OSError` where it cannot.
    """

    def __init__(
        self,
        engine: Engine,
        measuring: Callable[[], Measuring],
        cost: CostModel,
        keep: Callable[[Measurement], None],
    ):
        self._engine = engine
        self._measuring = measuring
        self._cost = cost
        self._keep_speeds = keep
        self._again = AGAIN_SECONDS
        self._not_before = 0.0
        self._closing = asyncio.Event()
        self._stop = Event()
        self._task: asyncio.Task[None] | None = None

    def turn(self, seen: TurnSeen) -> None:
        """A turn is finished, which may have put the speeds in question."""
        self.check()

    def drift(self, sample: DriftSample) -> None:
        """Says nothing of speeds."""

    def check(self) -> None:
        """Measure when there is time, if there is a reason to."""
        if self._due() and not self._closing.is_set() and (self._task is None or self._task.done()):
            self._task = asyncio.create_task(self._work())

    async def settle(self) -> None:
        """Wait until nothing is being measured."""
        if self._task is not None:
            await asyncio.shield(self._task)

    async def aclose(self) -> None:
        """End a measurement under way and keep what was learned."""
        self._closing.set()
        self._stop.set()
        await self.settle()
        await self._keep()

    def _due(self) -> bool:
        measurement = self._cost.measurement
        if measurement.disturbed:
            return True
        doubted = self._cost.doubted or time.time() - measurement.at > STALE_SECONDS
        return doubted and time.monotonic() >= self._not_before

    async def _work(self) -> None:
        while self._due() and not self._closing.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(self._closing.wait(), max(0.0, self._not_before - time.monotonic()))
            if self._closing.is_set():
                return
            try:
                found = await self._measured()
            except RuntimeError as e:  # an accelerator without room for it
                log.warning("speeds stay as they were measured: %s", e)
                found = None
            self._judge(found)
            if found is not None:
                await self._keep()

    def _judge(self, found: Measurement | None) -> None:
        """Go on with what was found, unless it is worse than what was known."""
        if found is None or found.disturbed:
            self._not_before = time.monotonic() + self._again
            self._again = min(2 * self._again, LONGEST_AGAIN_SECONDS)
            if found is None or not self._cost.measurement.disturbed:
                return
        else:
            self._again, self._not_before = AGAIN_SECONDS, time.monotonic() + SURE_SECONDS
        self._cost.renew(found)

    async def _measured(self) -> Measurement | None:
        """A measurement; None where the adapter closes or the machine is busy."""
        patient = await self._idle()
        measuring = await threads.store(self._measuring)
        disturbed = 0
        try:
            for name, step in measuring.steps():
                while not await self._timed(measuring, name, step, patient):
                    patient = patient and await self._idle()
                    if self._closing.is_set():
                        return None
                disturbed += measuring.newest is not None and measuring.newest.disturbed
                if disturbed >= DISTURBED_STEPS:
                    return None
            return measuring.outcome()
        finally:
            measuring.close()

    async def _idle(self) -> bool:
        """Wait until nobody waits for the model; False where that does not come."""
        try:
            await asyncio.wait_for(self._engine.idle.quiet(), PATIENCE_SECONDS)
        except TimeoutError:
            return False
        return True

    async def _timed(self, measuring: Measuring, name: str, step: Step, patient: bool) -> bool:
        """Time one pass; any call ends it where there is patience. Whether it ran to its end."""
        if self._closing.is_set() or (patient and not await self._idle()):
            return False
        self._stop.clear()
        ended_by_calls = self._engine.idle.background(self._stop) if patient else nullcontext()
        with ended_by_calls, suppress(ForwardStopped):
            run = partial(measuring.run, step, self._stop)
            measuring.add(name, await self._engine.call(run, priority=Priority.IDLE))
            return True
        return False

    async def _keep(self) -> None:
        try:
            await threads.store(self._keep_speeds, self._cost.known())
        except OSError as e:
            log.warning("speeds are not kept: %s", e)
