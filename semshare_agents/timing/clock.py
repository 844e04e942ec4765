"""How long a turn's stages take."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")

WAIT = "wait"
"""What of the time is no stage's: a turn waits for other turns while it is not worked on, be it for the model, for a
place among callers, for its session's turn before, for files of turns before, or for the event loop."""


class Clock:
    """Seconds by stage, and since the call; begins when it is made."""

    def __init__(self) -> None:
        self.began_at = time.time()
        """Seconds since the epoch."""
        self._begin = time.perf_counter()
        self._stages: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a stage; a stage entered twice adds up."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._stages[name] = self._stages.get(name, 0.0) + time.perf_counter() - start

    def on_thread(self, name: str, call: Callable[[], T]) -> Callable[[], T]:
        """A call whose time on the thread that will run it counts as a stage; the time until it runs is waiting."""

        def ran() -> T:
            with self.stage(name):
                return call()

        return ran

    def elapsed(self) -> float:
        """Seconds since the call."""
        return time.perf_counter() - self._begin

    def told(self) -> tuple[dict[str, float], float]:
        """Seconds by stage, waiting among them, and their sum: those since the call."""
        stages, elapsed = dict(self._stages), self.elapsed()
        return {**stages, WAIT: max(0.0, elapsed - sum(stages.values()))}, elapsed
