"""Whether a computation had the machine to itself: how long threads waited for a processor meanwhile."""

from __future__ import annotations

import time
from collections.abc import Callable
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
        delayed: Seconds that a thread of this process waited for a processor, the most delayed one, over those of the
            computation; 0.0 on a quiet machine.
        shared: Whether it was computed together with others' work.
    """

    result: T_co
    seconds: float
    delayed: float
    shared: bool = False

    @property
    def disturbed(self) -> bool:
        """Whether others had the processors that it needed, or a part in it."""
        return self.shared or self.delayed > MOST_DELAYED


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
    if after:
        # Threads of a layer wait for the slowest of them.
        return Timed(result, seconds, max(after[each] - before.get(each, 0.0) for each in after) / seconds)
    # Nobody counts here: what this thread did not run it waited, for a processor or for threads that did.
    return Timed(result, seconds, 0.0 if device.type == "cuda" else max(0.0, 1.0 - own / seconds))


def _waited_seconds(all_threads: bool) -> dict[str, float]:
    """Seconds that each thread has been ready to run and had no processor; empty where nobody counts.

    Linux counts them: the second figure of a thread's `schedstat`, in nanoseconds; the third one is how often it ran
    (Documentation/scheduler/sched-stats.rst).
    """
    waited, ran = {}, 0
    try:
        for task in TASKS.iterdir() if all_threads else (THREAD,):
            try:
                figures = (task / "schedstat").read_bytes().split()
            except (FileNotFoundError, ProcessLookupError):
                continue  # it has ended
            waited[task.name], ran = int(figures[1]) / 1e9, ran + int(figures[2])
    except (OSError, ValueError, IndexError):
        return {}
    return waited if ran else {}
