"""Idle time: background work runs on the model only while nobody waits for it."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from threading import Event
from typing import Generic, Protocol, TypeVar


class TurnJob(Protocol):
    """What is to be done for a stored turn."""

    @property
    def turn_id(self) -> int:
        """The turn."""


Job = TypeVar("Job", bound=TurnJob)

QUIET_SECONDS = 0.05
"""Steps of a stream follow one another more closely than this; a longer pause is idle time."""


class Idle:
    """Knows which calls are under way. All methods belong on the event loop's thread."""

    def __init__(self) -> None:
        self._calls: set[asyncio.Event] = set()
        self._stops: set[Event] = set()
        self._begun = 0

    @contextmanager
    def busy(self) -> Iterator[None]:
        """A call is under way: background work ends now and does not start before the call is over."""
        over = asyncio.Event()
        self._calls.add(over)
        self._begun += 1
        for stop in self._stops:
            stop.set()
        try:
            yield
        finally:
            self._calls.discard(over)
            over.set()

    @contextmanager
    def background(self, stop: Event) -> Iterator[None]:
        """Work that any call may end by setting `stop`."""
        self._stops.add(stop)
        try:
            yield
        finally:
            self._stops.discard(stop)

    async def drained(self) -> None:
        """Wait until every call that is under way now is over; later ones do not matter."""
        for call in list(self._calls):
            await call.wait()

    async def quiet(self) -> None:
        """Wait until no call has been under way for `QUIET_SECONDS`."""
        while True:
            await self.drained()
            begun = self._begun
            await asyncio.sleep(QUIET_SECONDS)
            if begun == self._begun and not self._calls:
                return


class Stoppable(Protocol):
    """A computation that another thread can end."""

    @property
    def stop(self) -> Event:
        """Set it to end a running forward early."""


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
