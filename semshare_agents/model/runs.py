"""Makes runs of a model."""

from __future__ import annotations

from semshare_agents.kv.buffer import BufferPool
from semshare_agents.model.loading import LoadedModel
from semshare_agents.model.run import RowRun, Run
from semshare_agents.model.stock import StockRun

FIRST_ROOM_TOKENS = 512


class Runs:
    """Makes runs, by rows where the model allows it.

    Args:
        model: The model.
        spare_buffers: How many free buffers are kept for runs to come.

    Attributes:
        pool: The buffers; None where no rows can be computed.
    """

    def __init__(self, model: LoadedModel, spare_buffers: int = 2):
        rows = model.support.rows
        self._model = model
        self.pool = None if rows is None else BufferPool(rows.layout, rows.device, spare_buffers)

    def new(self, prompt_tokens: int, room_tokens: int = 0) -> Run:
        """A run with room for a prompt; it grows with the answer, since few have all the tokens that they may.

        Args:
            prompt_tokens: Length of the prompt.
            room_tokens: How many tokens the answer may have.
        """
        tokens = prompt_tokens + room_tokens
        support = self._model.support
        if support.rows is None or self.pool is None or support.beyond(tokens):
            return StockRun(self._model.model, support.rows)
        return RowRun(support.rows, self.pool, tokens, prompt_tokens + min(room_tokens, FIRST_ROOM_TOKENS))

    def by_rows(self, tokens: int) -> RowRun:
        """A run that computes any rows, of a stored turn say: only what was computed by rows is stored."""
        rows = self._model.support.rows
        assert rows is not None
        assert self.pool is not None
        return RowRun(rows, self.pool, tokens)
