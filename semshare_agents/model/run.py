"""Runs: what holds a turn's KV while it is computed and continued."""

from __future__ import annotations

from abc import ABC, abstractmethod
from threading import Event

import numpy as np
import torch

from semshare_agents.model.rows import BufferPool, Narrow, RowModel, Watch
from semshare_agents.values import Ints


class Run(ABC):
    """One turn's computation; every method belongs on the compute thread."""

    def __init__(self) -> None:
        self.stop = Event()
        """Set it from any thread to end a running forward early with `ForwardStopped`."""

    @abstractmethod
    def cold(self, prompt: Ints) -> torch.Tensor:
        """Prefill a whole prompt; returns the last token's logits `(vocabulary,)`."""

    @abstractmethod
    def step(self, token: int) -> torch.Tensor:
        """Append a token; returns its logits `(vocabulary,)`."""

    @abstractmethod
    def close(self) -> None:
        """Give back what the run holds."""


LATE_STEP_ROWS = 128
"""Most late rows that one decoding step carries: an answer has to keep flowing."""


class RowRun(Run):
    """A run whose KV lies in a full-length buffer, any rows of which can be computed.

    Args:
        rows: The row model.
        pool: Where the buffer comes from.
        tokens: Prompt and answer, at most.
    """

    def __init__(self, rows: RowModel, pool: BufferPool, tokens: int):
        super().__init__()
        self._rows = rows
        self._pool = pool
        self._buffer: torch.Tensor | None = pool.acquire(tokens)
        self._tokens = np.zeros(tokens, np.int64)
        self.length = 0
        self.exact = 0
        """Length of the prefix whose KV equals a cold run's: the exact frontier."""
        self.semantic = False
        """Whether some of the KV is that of text which says much the same."""
        self.hurried = False
        """Whether steps carry as many rows behind the frontier as they may, until the turn is exact."""
        self.spread_logits = 0.0
        """By how much drift is predicted to move one logit against another; 0 where near ties are nobody's concern."""
        self.late: Ints = np.zeros(0, np.int64)
        """Rows that the next steps compute again, ascending; in this order parts do what one pass would."""

    @property
    def buffer(self) -> torch.Tensor:
        """`(layers, 2, kv_heads, capacity, head_dim)`."""
        assert self._buffer is not None, "the run is closed"
        return self._buffer

    def cold(self, prompt: Ints) -> torch.Tensor:
        """See `Run.cold`."""
        return self.prefill(prompt, np.arange(len(prompt)), len(prompt))

    def prefill(
        self,
        prompt: Ints,
        rows: Ints,
        exact: int,
        narrow: Narrow | None = None,
        watch: int = -1,
        attention_watch: Watch | None = None,
    ) -> torch.Tensor:
        """Compute some rows of a prompt whose other rows lie in the buffer; see `RowModel.forward`.

        Args:
            prompt: Token ids, shape `(tokens,)`.
            rows: Positions to compute, ascending, shape `(rows,)`.
            exact: The exact frontier once they are computed.
            narrow: Drops rows between layers.
            watch: Layer whose deviation `narrow` gets.
            attention_watch: Sees every layer's queries and keys; see `semshare_agents.model.rows.Watch`.

        Returns:
            The last token's logits `(vocabulary,)`.
        """
        out = self._rows.forward(
            prompt[rows],
            rows,
            self.buffer,
            narrow=narrow,
            watch=watch,
            stop=self.stop,
            attention_watch=attention_watch,
        )
        self.continue_from(prompt, exact)
        return out[-1]

    def continue_from(self, tokens: Ints, exact: int) -> None:
        """Take the buffer's first rows as the KV of `tokens`, shape `(tokens,)`, exact for the first `exact`."""
        self._tokens[: len(tokens)] = tokens
        self.length, self.exact = len(tokens), exact

    def step(self, token: int, repair_rows: int = 0) -> torch.Tensor:
        """Append a token and, in the same pass, compute late rows or the next ones behind the exact frontier again.

        In ascending order each row behind the frontier sees exact rows only, so the frontier moves on with it. Late
        rows go first.

        Args:
            token: The token.
            repair_rows: Most rows behind the frontier computed besides the token's own; a hurried run takes more.

        Returns:
            The token's logits `(vocabulary,)`.
        """
        self._tokens[self.length] = token
        late, self.late = self.late[:LATE_STEP_ROWS], self.late[LATE_STEP_ROWS:]
        repair_rows = LATE_STEP_ROWS if self.hurried else repair_rows
        reached = min(self.exact + (0 if len(late) else repair_rows), self.length)
        rows = np.concatenate((late, np.arange(self.exact, reached), [self.length]))
        out = self.forward(self._tokens[rows], rows)
        self.exact = reached if reached < self.length else self.length + 1
        self.length += 1
        return out[-1]

    def finish(self) -> torch.Tensor:
        """Compute all rows behind the exact frontier again, the last one in any case.

        Returns:
            That one's logits `(vocabulary,)`: a cold run's.
        """
        where = np.arange(min(self.exact, self.length - 1), self.length)
        out = self.forward(self._tokens[where], where)
        self.exact, self.late = self.length, self.late[:0]
        return out[-1]

    def repair(self, rows: int) -> None:
        """Compute up to `rows` rows behind the exact frontier again."""
        reached = min(self.exact + rows, self.length)
        where = np.arange(self.exact, reached)
        if len(where):
            self.forward(self._tokens[where], where)
        self.exact = reached

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
        return self._rows.token_bytes

    def forward(self, token_ids: Ints, rows: Ints, logits: int = 1) -> torch.Tensor:
        """Compute rows without changing the run's length; returns `(logits, vocabulary)`."""
        return self._rows.forward(token_ids, rows, self.buffer, logits=logits, stop=self.stop)

    def close(self) -> None:
        """See `Run.close`."""
        if self._buffer is not None:
            self._pool.release(self._buffer)
            self._buffer = None
