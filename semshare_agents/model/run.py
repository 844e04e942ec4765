"""Runs and steps: what holds a turn's KV, and the rows of it that one pass computes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from threading import Event

import numpy as np
import torch

from semshare_agents.kv.buffer import BufferPool
from semshare_agents.kv.layout import KV, tokens_of
from semshare_agents.model.attention import AttentionObserver, Stop
from semshare_agents.model.rows import RowModel, RowPruning, Rows
from semshare_agents.values import Ints

DEFERRED_STEP_ROWS = 128
"""Most deferred rows that one decoding step carries: an answer has to keep flowing."""


PAGE_BYTES = 4096


@dataclass(frozen=True)
class Step:
    """Rows of one run that are computed in one pass: a prompt, a part of one, a token, rows to repair.

    Attributes:
        run: Whose rows.
        token_ids: Token of each row, shape `(rows,)`.
        rows: Position of each row, ascending, shape `(rows,)`.
        logits: Of how many of the last rows logits are wanted.
        length: The run's length once they are computed.
        exact: Its exact frontier then.
        deferred: How many of its deferred rows are among them.
        prune: Drops rows between layers.
        check_layer: Layer whose deviation `prune` gets; -1 for none.
        observer: Sees every layer's queries and keys; see `semshare_agents.model.rows.AttentionObserver`.
    """

    run: Run
    token_ids: Ints
    rows: Ints
    length: int
    exact: int
    logits: int = 1
    deferred: int = 0
    prune: RowPruning | None = None
    check_layer: int = -1
    observer: AttentionObserver | None = None

    @property
    def mixes(self) -> bool:
        """Whether it may share a pass with steps of other runs."""
        rows = self.run.by_rows
        return rows is not None and rows.mixes and self.prune is None

    def cut(self, first: int, last: int) -> Step:
        """A part of it: once all parts were computed, in their order, it was.

        Rows are ascending, so that whatever stands before the next row to come is as exact as it will be.

        Args:
            first: Index of the part's first row.
            last: Index past its last row.
        """
        ids, rows = self.token_ids[first:last], self.rows[first:last]
        if last == len(self.rows):
            return replace(self, token_ids=ids, rows=rows)
        reached = max(self.run.exact, min(self.exact, int(self.rows[last])))
        length = max(self.run.length, reached)
        return replace(self, token_ids=ids, rows=rows, length=length, exact=reached, logits=1, deferred=0)


class Run(ABC):
    """One turn's computation: makes steps, and computes them on the engine's thread."""

    length: int = 0
    """Tokens whose KV it has."""
    exact: int = 0
    """Length of the prefix whose KV equals a cold run's and may be stored: the exact frontier."""
    tenant: str = ""
    """Whose turn it is; among tenants the model's time is shared evenly."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        """Where it is computed."""
        self.stop = Event()
        """Set it from any thread to end a running forward early with `ForwardStopped`."""

    @property
    def by_rows(self) -> RowRun | None:
        """Itself, where any rows can be computed again and the KV can be stored; else None."""
        return None

    def whole(self, prompt: Ints) -> Step:
        """The step that computes all of a prompt, shape `(tokens,)`."""
        return Step(self, prompt, np.arange(len(prompt)), len(prompt), len(prompt))

    def next(self, token: int, repair_rows: int = 0) -> Step:
        """The step that appends a token.

        Args:
            token: The token.
            repair_rows: Most rows behind the exact frontier that it computes besides.
        """
        return Step(self, np.asarray([token]), np.asarray([self.length]), self.length + 1, self.exact)

    @abstractmethod
    def compute(self, step: Step) -> torch.Tensor:
        """Compute a step of this run; returns the last rows' logits, `(logits, vocabulary)`."""

    def cold(self, prompt: Ints) -> torch.Tensor:
        """Prefill a whole prompt on this thread; returns the last token's logits `(vocabulary,)`."""
        return self.compute(self.whole(prompt))[-1]

    def step(self, token: int, repair_rows: int = 0) -> torch.Tensor:
        """Append a token on this thread; returns its logits `(vocabulary,)`."""
        return self.compute(self.next(token, repair_rows))[-1]

    @abstractmethod
    def close(self) -> None:
        """Give back what the run holds."""


class RowRun(Run):
    """A run whose KV lies in a full-length buffer, any rows of which can be computed.

    Args:
        rows: The row model.
        pool: Where the buffer comes from.
        tokens: Prompt and answer, at most.
        first_tokens: For how many its buffer has room at first; default: all.
    """

    def __init__(self, rows: RowModel, pool: BufferPool, tokens: int, first_tokens: int | None = None):
        super().__init__(rows.device)
        self.model = rows
        """Computes its rows."""
        self._pool = pool
        self._buffer: KV | None = pool.acquire(min(tokens, first_tokens or tokens))
        self._tokens = np.zeros(tokens, np.int64)
        self.semantic = False
        """Whether some of the KV is that of text which says much the same."""
        self.hurried = False
        """Whether steps carry as many rows behind the frontier as they may, until the turn is exact."""
        self.spread_logits = 0.0
        """By how much drift is predicted to move one logit against another; 0 where near ties are nobody's concern."""
        self.deferred: Ints = np.zeros(0, np.int64)
        """Rows that the next steps compute again, ascending; in this order parts do what one pass would."""

    @property
    def by_rows(self) -> RowRun:
        """See `Run.by_rows`."""
        return self

    @property
    def buffer(self) -> KV:
        """The turn's KV, with room for the rest of its answer."""
        assert self._buffer is not None, "the run is closed"
        return self._buffer

    def part(
        self,
        prompt: Ints,
        rows: Ints,
        exact: int,
        prune: RowPruning | None = None,
        check_layer: int = -1,
        observer: AttentionObserver | None = None,
    ) -> Step:
        """The step that computes some rows of a prompt whose other rows lie in the buffer.

        Args:
            prompt: Token ids, shape `(tokens,)`.
            rows: Positions to compute, ascending, shape `(rows,)`.
            exact: The exact frontier once they are computed.
            prune: Drops rows between layers.
            check_layer: Layer whose deviation `prune` gets.
            observer: Sees every layer's queries and keys.
        """
        self._tokens[: len(prompt)] = prompt
        return Step(
            self, prompt[rows], rows, len(prompt), exact, prune=prune, check_layer=check_layer, observer=observer
        )

    def whole(self, prompt: Ints) -> Step:
        """See `Run.whole`."""
        return self.part(prompt, np.arange(len(prompt)), len(prompt))

    def next(
        self,
        token: int,
        repair_rows: int = 0,
        drafts: Sequence[int] = (),
        deferred_rows: int = DEFERRED_STEP_ROWS,
    ) -> Step:
        """The step that appends a token and, in the same pass, computes rows again: deferred ones, or some to repair.

        In ascending order each row behind the frontier sees exact rows only, so the frontier moves on with it. Deferred
        rows go first. Drafted tokens' rows come last, each with its logits; they lie beyond the run's length until they
        are accepted, and are overwritten by later steps where they are not.

        Args:
            token: The token.
            repair_rows: Most rows behind the frontier computed besides the token's own; a hurried run takes more.
            drafts: What may well follow the token.
            deferred_rows: Most deferred rows computed besides, and of a hurried run rows behind the frontier.
        """
        end = self.length + 1 + len(drafts)
        self._tokens[self.length : end] = (token, *drafts)
        deferred = self.deferred[:deferred_rows]
        most = 0 if len(deferred) else deferred_rows if self.hurried else repair_rows
        reached = min(self.exact + most, self.length)
        rows = np.concatenate((deferred, np.arange(self.exact, reached), np.arange(self.length, end)))
        exact = reached if reached < self.length else self.length + 1
        logits = 1 + len(drafts)
        return Step(self, self._tokens[rows], rows, self.length + 1, exact, logits, deferred=len(deferred))

    def accept(self) -> None:
        """Take the row after the last one as the run's own: its token was drafted in the last step, and drawn since."""
        if self.exact == self.length:
            self.exact += 1
        self.length += 1

    def again(self, most_rows: int) -> Step:
        """The step that computes the next rows behind the exact frontier again, at least one."""
        reached = min(self.exact + most_rows, self.length)
        rows = np.arange(self.exact, reached)
        return Step(self, self._tokens[rows], rows, self.length, reached)

    def rest(self) -> Step:
        """The step that computes all rows behind the exact frontier again, the last one in any case."""
        rows = np.arange(min(self.exact, self.length - 1), self.length)
        return Step(self, self._tokens[rows], rows, self.length, self.length, deferred=len(self.deferred))

    @property
    def mixes(self) -> bool:
        """Whether the model computes rows of several runs in one pass as it computes them alone."""
        return self.model.mixes

    def compute(self, step: Step) -> torch.Tensor:
        """See `Run.compute`."""
        if step.prune is None:
            return together([step], self.stop)[0]
        out = self.model.narrowed(self.rows_of(step), step.prune, step.check_layer, self.stop)
        self.computed(step)
        return out

    def rows_of(self, step: Step) -> Rows:
        """A step's rows, for a pass; the buffer has room for them."""
        self._make_room(int(step.rows[-1]) + 1)
        return Rows(step.token_ids, step.rows, self.buffer, step.logits, step.observer)

    def computed(self, step: Step) -> None:
        """A step's rows were computed."""
        self.length, self.exact, self.deferred = step.length, step.exact, self.deferred[step.deferred :]

    def _make_room(self, tokens: int) -> None:
        """Go on in a larger buffer where this one is too small."""
        if tokens > tokens_of(self.buffer):
            self._buffer = self._pool.larger(self.buffer, self.length, min(2 * tokens, max(tokens, self.capacity)))

    def prefill(self, prompt: Ints, rows: Ints, exact: int) -> torch.Tensor:
        """Compute some rows of a prompt on this thread, as in `part`; returns the last token's logits."""
        return self.compute(self.part(prompt, rows, exact))[-1]

    def continue_from(self, tokens: Ints, exact: int) -> None:
        """Take the buffer's first rows as the KV of `tokens`, shape `(tokens,)`, exact for the first `exact`."""
        self._tokens[: len(tokens)] = tokens
        self.length, self.exact = len(tokens), exact

    def touch(self) -> None:
        """Have the system lay out the memory of an empty buffer now, which else the first pass waits for."""
        if self.buffer.device.type == "cpu":
            self.buffer.view(torch.uint8).view(-1)[::PAGE_BYTES] = 0

    @property
    def closed(self) -> bool:
        """Whether its buffer is given back."""
        return self._buffer is None

    @property
    def tokens(self) -> Ints:
        """The tokens whose KV the buffer holds, shape `(length,)`."""
        return self._tokens[: self.length]

    @property
    def capacity(self) -> int:
        """Prompt and answer, at most, in tokens."""
        return len(self._tokens)

    @property
    def token_bytes(self) -> int:
        """Bytes of one token's KV over all layers."""
        return self.model.token_bytes

    def beyond(self, token_ids: Ints, rows: Ints, logits: int = 1) -> Step:
        """The step that computes rows without changing the run's length, as for a given continuation."""
        return Step(self, token_ids, rows, self.length, self.exact, logits=logits)

    def forward(self, token_ids: Ints, rows: Ints, logits: int = 1) -> torch.Tensor:
        """Compute `beyond` on this thread; returns `(logits, vocabulary)`."""
        return self.compute(self.beyond(token_ids, rows, logits))

    def close(self) -> None:
        """See `Run.close`."""
        if self._buffer is not None:
            self._pool.release(self._buffer)
            self._buffer = None


def together(steps: Sequence[Step], stop: Stop, keeps: bool = False) -> list[torch.Tensor]:
    """Compute steps of several runs in one pass on this thread.

    Args:
        steps: Steps that mix, each of another run of one model.
        stop: Ends the pass early once set.
        keeps: Finish a pass all the same whose first half is computed.

    Returns:
        The logits of each, `(logits, vocabulary)`.

    Raises:
        ForwardStopped: `stop` was set; no run has gone on then.
    """
    runs = [run for step in steps if (run := step.run.by_rows) is not None]
    parts = [run.rows_of(step) for run, step in zip(runs, steps, strict=True)]
    found = runs[0].model.together(parts, stop, keeps)
    for run, step in zip(runs, steps, strict=True):
        run.computed(step)
    return found
