"""Whether a computation had the machine to itself: how long this process's threads waited for a processor meanwhile."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import torch

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

TASKS = Path("/proc/self/task")
THREAD = Path("/proc/thread-self")
MOST_DELAYED = 0.15
"""Share of a computation's time that threads may wait for processors before it counts as disturbed."""


@dataclass(frozen=True)
class Timed(Generic[T_co]):
    """What a computation gave, and how it went.

    Attributes:
        result: What it gave.
        seconds: How long it took.
        delayed: Seconds that threads of this process waited for a processor, over its own; 0.0 on a quiet machine.
    """

    result: T_co
    seconds: float
    delayed: float

    @property
    def disturbed(self) -> bool:
        """Whether others had the processors that it needed."""
        return self.delayed > MOST_DELAYED


def timed(call: Callable[[], T], device: torch.device, all_threads: bool = False) -> Timed[T]:
    """Run a computation on this thread and time it to its end, on an accelerator too.

    Args:
        call: The computation.
        device: Where it runs.
        all_threads: Look at all threads of this process, not at this one alone: surer, and dearer by a file for each.
    """
    before, start, own = _waited_seconds(all_threads), time.perf_counter(), time.thread_time()
    result = call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    seconds = max(time.perf_counter() - start, 1e-9)
    own = time.thread_time() - own
    after = _waited_seconds(all_threads)
    if before is not None and after is not None:
        return Timed(result, seconds, max(0.0, after - before) / seconds)
    # Nobody counts here: what this thread did not run it waited, for a processor or for threads that did.
    return Timed(result, seconds, 0.0 if device.type == "cuda" else max(0.0, 1.0 - own / seconds))


def _waited_seconds(all_threads: bool) -> float | None:
    """Seconds that threads of this process have been ready to run and had no processor; None where nobody counts.

    Linux counts them for each thread: the second figure of `schedstat`, in nanoseconds; the third one is how often the
    thread ran (Documentation/scheduler/sched-stats.rst).
    """
    waited = ran = 0
    tasks: Iterable[Path] = TASKS.iterdir() if all_threads else (THREAD,)
    try:
        for task in tasks:
            try:
                figures = (task / "schedstat").read_bytes().split()
            except (FileNotFoundError, ProcessLookupError):
                continue  # it has ended
            waited, ran = waited + int(figures[1]), ran + int(figures[2])
    except (OSError, ValueError, IndexError):
        return None
    return waited / 1e9 if ran else None
