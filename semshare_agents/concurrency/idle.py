"""Idle time: which calls are under way, and when there are none."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event

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
