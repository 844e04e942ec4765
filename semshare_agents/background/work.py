"""Jobs that are done in idle time."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Collection
from typing import Generic, Protocol, TypeVar

from semshare_agents.engine.engine import Stoppable


class TurnJob(Protocol):
    """What is to be done for a stored turn."""

    @property
    def turn_id(self) -> int:
        """The turn."""


Job = TypeVar("Job", bound=TurnJob)


class IdleWork(ABC, Generic[Job]):
    """Jobs that one task does in idle time; of too many that wait the oldest is given up.

    Args:
        most_waiting: How many may wait.
    """

    def __init__(self, most_waiting: int):
        self._waiting: deque[Job] = deque(maxlen=most_waiting)
        self._running: Stoppable | None = None
        self._closing = False
        self._task: asyncio.Task[None] | None = None

    def _put(self, job: Job) -> None:
        self._waiting.append(job)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._work())

    def give_up(self, turn_ids: Collection[int]) -> None:
        """Forget the waiting jobs of turns."""
        for job in [job for job in self._waiting if job.turn_id in turn_ids]:
            self._waiting.remove(job)

    async def settle(self) -> None:
        """Wait until no job waits."""
        if self._task is not None:
            await asyncio.shield(self._task)

    async def aclose(self) -> None:
        """End the job under way, which keeps what it can, and give up the rest."""
        self._closing = True
        self._waiting.clear()
        if self._running is not None:
            self._running.stop.set()
        await self.settle()

    @abstractmethod
    async def _work(self) -> None:
        """Do jobs until none waits."""
