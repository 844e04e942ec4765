"""How many requests are worked on, how many may wait, and what traffic there is."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from semshare_server.errors import QueueFullError

TYPICAL_SECONDS = 1.0
SMOOTHING = 0.2


class Place:
    """One request's place; free it once, or more often without harm."""

    def __init__(self, admission: Admission):
        self._admission = admission
        self._since = time.monotonic()
        self._held = True

    def free(self) -> None:
        """Let the next one in."""
        if self._held:
            self._held = False
            self._admission.left(time.monotonic() - self._since)


class Admission(Collector):
    """Lets so many requests in and so many wait; of the rest each is told when to come back.

    Args:
        running: Requests worked on at once.
        queue: Requests that may wait.
    """

    def __init__(self, running: int, queue: int):
        self._slots = asyncio.Semaphore(running)
        self._running = running
        self._queue = queue
        self._typical_seconds = TYPICAL_SECONDS
        self.waiting = 0
        self.active = 0

    async def enter(self) -> Place:
        """A place, after waiting for it.

        Raises:
            QueueFullError: too many wait already.
        """
        if self._slots.locked() and self.waiting >= self._queue:
            turns = (self.waiting + 1) / self._running
            raise QueueFullError(self.waiting, max(1, math.ceil(turns * self._typical_seconds)))
        self.waiting += 1
        try:
            await self._slots.acquire()
        finally:
            self.waiting -= 1
        self.active += 1
        return Place(self)

    def left(self, seconds: float) -> None:
        """A request is done."""
        self.active -= 1
        self._typical_seconds += SMOOTHING * (seconds - self._typical_seconds)
        self._slots.release()

    def collect(self) -> Iterable[Metric]:
        """What a scrape reads."""
        running = GaugeMetricFamily("semshare_requests_running", "Requests worked on.")
        running.add_metric([], self.active)
        waiting = GaugeMetricFamily("semshare_requests_waiting", "Requests that wait.")
        waiting.add_metric([], self.waiting)
        return [running, waiting]


class Traffic:
    """Counts responses.

    Args:
        registry: What a scrape reads.
    """

    def __init__(self, registry: CollectorRegistry):
        self.responses = Counter(
            "semshare_requests", "Requests by route and status.", ["route", "status"], registry=registry
        )
        self.cancelled = Counter("semshare_requests_cancelled", "Requests whose client went away.", registry=registry)
