"""How long a turn's stages take."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")

WAIT = "wait"
"""The stage of what waits for other turns: for the model, for a place among callers, for files of turns before."""


class Clock:
    """Seconds by stage, and since the call; begins when it is made."""

    def __init__(self) -> None:
        self.began_at = time.time()
        """Seconds since the epoch."""
        self.begin = time.perf_counter()
        self.stages: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a stage; a stage entered twice adds up."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._add(name, time.perf_counter() - start)

    def on_thread(self, name: str, call: Callable[[], T]) -> Callable[[], T]:
        """A call whose time on the thread that will run it counts as a stage, and the time until it runs as waiting."""
        asked = time.perf_counter()

        def ran() -> T:
            self._add(WAIT, time.perf_counter() - asked)
            with self.stage(name):
                return call()

        return ran

    def _add(self, name: str, seconds: float) -> None:
        self.stages[name] = self.stages.get(name, 0.0) + seconds

    def elapsed(self) -> float:
        """Seconds since the call."""
        return time.perf_counter() - self.begin
