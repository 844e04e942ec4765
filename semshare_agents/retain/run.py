"""Decoding on a part of a prompt's KV, each layer with a length of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers.cache_utils import Cache

from semshare_agents.kv.layout import KV
from semshare_agents.kv.retained import RetainedLayer
from semshare_agents.model.attention import StepBatch
from semshare_agents.model.rows import ForwardStopped, RowModel
from semshare_agents.model.run import RowRun, Run, Step
from semshare_agents.retain.observer import TailObserver
from semshare_agents.retain.select import Retention, retained_positions


class RetainedRun(Run):
    """Continues a prompt on the KV that was kept of it.

    Keys carry their rotation, so keeping is a gather: what is left stays at its true position, and new tokens are
    computed at theirs. Nothing refers to the buffer afterwards.

    Args:
        rows: The row model.
        buffer: The prompt's complete KV.
        kept: For each layer, positions to keep, ascending, `(kv_heads, kept)`.
        tokens: Length of the prompt.
        room: How many tokens may follow.
        int8: Keep the prompt's part in 8 bits, with a scale for each token and head, and widen it layer by layer in
            every step: a quarter of the bytes of float32 for more work a step.
    """

    def __init__(
        self,
        rows: RowModel,
        buffer: KV,
        kept: Sequence[torch.Tensor],
        tokens: int,
        room: int,
        int8: bool = False,
    ):
        super().__init__(rows.device)
        self._rows = rows
        self.length = tokens
        self._layers = [RetainedLayer(buffer, i, where, room, int8) for i, where in enumerate(kept)]

    @property
    def nbytes(self) -> int:
        """Bytes of KV that the run holds, room for the answer included."""
        return sum(layer.nbytes for layer in self._layers)

    @torch.inference_mode()
    def compute(self, step: Step) -> torch.Tensor:
        """See `Run.compute`: the token that follows.

        Raises:
            RuntimeError: it is another step: a retained run only goes on from a prompt.
        """
        if len(step.rows) != 1 or step.rows[0] != self.length:
            raise RuntimeError("a RetainedRun continues a prompt: prefill with a RowRun")
        step_batch = StepBatch([self._rows.run_rows(step.rows)], self.stop)
        out = self._rows.compute(step.token_ids, step_batch, _RetainedCache(self._layers, step_batch))
        self.length = step.length
        return out

    def close(self) -> None:
        """See `Run.close`."""
        self._layers = []


def retained(rows: RowModel, run: RowRun, retention: Retention, int8: bool = False) -> RetainedRun:
    """What a run goes on with when it keeps a part of its KV; the run itself stays as it is and may be closed.

    The last `retention.recent` rows are computed again, to see what they attend to.

    Args:
        rows: The row model.
        run: A run whose KV is complete.
        retention: What to keep.
        int8: See `RetainedRun`.
    """
    tokens = run.tokens
    tail = np.arange(max(0, len(tokens) - retention.recent), len(tokens))
    watch = TailObserver(int(tail[0]))
    rows.forward(tokens[tail], tail, run.buffer, observer=watch, stop=run.stop)
    kept = retained_positions(retention, watch.attention())
    return RetainedRun(rows, run.buffer, kept, len(tokens), run.capacity - len(tokens), int8)


class _RetainedCache(Cache):  # type: ignore[misc]
    """A cache whose layers have lengths of their own."""

    def __init__(self, layers: Sequence[RetainedLayer], step_batch: StepBatch):
        super().__init__(layers=[])
        self._kept = layers
        self._row_pass = step_batch

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append one row; returns all that is kept of the layer, and the answer's rows."""
        if self._row_pass.stop is not None and self._row_pass.stop.is_set():
            raise ForwardStopped
        (rows,) = self._row_pass.parts
        rows.layer, rows.held = layer_idx, self._kept[layer_idx].append(key_states, value_states)
        return rows.held

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Tokens before the row, kept or not."""
        return int(self._row_pass.parts[0].rows[0])
