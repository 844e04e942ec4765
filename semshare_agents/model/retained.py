"""Decoding on a part of a prompt's KV, each layer with a length of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers.cache_utils import Cache

from semshare_agents.model.rows import ATTENTION, ForwardStopped, RowModel, RowPass
from semshare_agents.model.run import RowRun, Run, Step
from semshare_agents.retain import Retention, TailWatch, kept_positions

CODES = 127


class RetainedRun(Run):
    """Continues a prompt on the KV that was kept of it.

    Keys carry their rotation, so keeping is a gather: what is left stays at its true position, and new tokens are
    computed at theirs. Nothing refers to the buffer afterwards.

    Args:
        rows: The row model.
        buffer: The prompt's complete KV, `(layers, 2, kv_heads, capacity, head_dim)`.
        kept: For each layer, positions to keep, ascending, `(kv_heads, kept)`.
        tokens: Length of the prompt.
        room: How many tokens may follow.
        int8: Keep the prompt's part in 8 bits, with a scale for each token and head, and widen it layer by layer in
            every step: a quarter of the bytes of float32 for more work a step.
    """

    def __init__(
        self,
        rows: RowModel,
        buffer: torch.Tensor,
        kept: Sequence[torch.Tensor],
        tokens: int,
        room: int,
        int8: bool = False,
    ):
        super().__init__(rows.device)
        self._rows = rows
        self.length = tokens
        self._layers = [_Layer(buffer[i], where, room, int8) for i, where in enumerate(kept)]

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
        rows = self._rows
        row_pass = rows.row_pass(step.rows)
        row_pass.stop = self.stop
        with rows.attention(ATTENTION):
            out = rows.model(
                input_ids=torch.as_tensor(step.token_ids, device=rows.device)[None],
                position_ids=row_pass.where[None],
                **{rows.cache_name: _RetainedCache(self._layers, row_pass)},
                attention_mask=torch.zeros(1, 1, 1, 1, device=rows.device, dtype=rows.dtype),
                use_cache=True,
                logits_to_keep=1,
                row_pass=row_pass,
            )
        self.length = step.length
        logits: torch.Tensor = out.logits[0]
        return logits

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
    watch = TailWatch(int(tail[0]))
    rows.forward(tokens[tail], tail, run.buffer, attention_watch=watch, stop=run.stop)
    kept = kept_positions(retention, watch.attention())
    return RetainedRun(rows, run.buffer, kept, len(tokens), run.capacity - len(tokens), int8)


class _Layer:
    """One layer's kept KV and the answer's after it."""

    def __init__(self, kv: torch.Tensor, where: torch.Tensor, room: int, int8: bool):
        heads, count = where.shape
        index = where.to(kv.device)[None, :, :, None].expand(2, heads, count, kv.shape[-1])
        part = kv.gather(2, index)
        self._codes = self._scale = None
        self._kept = self.length = count
        if int8:
            scale = (part.float().abs().amax(-1, keepdim=True) / CODES).clamp_min(1e-12)
            self._codes = (part.float() / scale).round().to(torch.int8)
            self._scale = scale.to(kv.dtype)
            self._kept = 0
        size = self._kept + room
        self._kv = torch.empty(2, heads, size, kv.shape[-1], dtype=kv.dtype, device=kv.device)
        if not int8:
            self._kv[:, :, :count] = part

    @property
    def nbytes(self) -> int:
        packed = 0 if self._codes is None or self._scale is None else self._codes.nbytes + self._scale.nbytes
        return self._kv.nbytes + packed

    def append(self, keys: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Add a token's `(kv_heads, 1, head_dim)`; returns all keys and values, `(1, kv_heads, length, head_dim)`."""
        self._kv[0, :, self._kept : self._kept + 1] = keys
        self._kv[1, :, self._kept : self._kept + 1] = values
        self._kept += 1
        self.length += 1
        fresh = self._kv[:, :, : self._kept]
        if self._codes is not None and self._scale is not None:
            fresh = torch.cat([self._codes.to(fresh.dtype).mul_(self._scale), fresh], dim=2)
        return fresh[0][None], fresh[1][None]


class _RetainedCache(Cache):  # type: ignore[misc]
    """A cache whose layers have lengths of their own."""

    def __init__(self, layers: Sequence[_Layer], row_pass: RowPass):
        super().__init__(layers=[])
        self._kept = layers
        self._row_pass = row_pass

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append one row; returns the layer's keys and values, `(1, kv_heads, length, head_dim)`."""
        if self._row_pass.stop is not None and self._row_pass.stop.is_set():
            raise ForwardStopped
        return self._kept[layer_idx].append(key_states[0], value_states[0])

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Tokens before the row, kept or not."""
        return int(self._row_pass.rows[0])
