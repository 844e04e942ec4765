"""What waits for the model."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import torch

from semshare_agents.model.run import Step
from semshare_agents.timing.delays import Timed

Within = Callable[[], AbstractContextManager[Any]]
"""Entered on the engine's thread around the work: a stage of a turn's clock, say."""


class Priority(IntEnum):
    """Whose work goes first."""

    STREAM = 0
    """The next token of an answer that is being read."""
    ANSWER = 1
    """Somebody waits for it."""
    IDLE = 2
    """It may wait: repair, drift samples, measuring."""


@dataclass(eq=False)
class Work:
    """A step, or a call, that waits for the model.

    Attributes:
        priority: Whose work goes first.
        order: Counts arrivals.
        future: Of its result.
        within: Entered around it.
        step: The rows; None for a call.
        call: The call; None for a step.
        done: How many of the step's rows are computed.
        took: What its passes took so far.
    """

    priority: Priority
    order: int
    future: Future[Any]
    within: Within
    step: Step | None = None
    call: Callable[[], Any] | None = None
    done: int = 0
    took: Timed[None] | None = None

    @property
    def begun(self) -> bool:
        """Whether some of its rows are computed."""
        return self.took is not None

    @property
    def rows_left(self) -> int:
        """How many rows are still to be computed."""
        return 0 if self.step is None else len(self.step.rows) - self.done

    def add(self, part: Timed[Any]) -> None:
        """A pass with some of its rows is over."""
        before = self.took or Timed(None, 0.0, 0.0)
        seconds = before.seconds + part.seconds
        delayed = (before.delayed * before.seconds + part.delayed * part.seconds) / seconds
        self.took = Timed(None, seconds, delayed, before.shared or part.shared)

    def finish(self, logits: torch.Tensor) -> None:
        """All its rows are computed; the last ones' logits, `(logits, vocabulary)`, are what was waited for."""
        assert self.took is not None
        took = self.took
        self.future.set_result(Timed(logits, took.seconds, took.delayed, took.shared))
