"""Attention of chosen rows: each sees the buffer up to its own position.

A row is one token position. Rows are attended in groups that see few keys in vain, and the query heads of a KV head are
folded into its rows, so that keys and values are read in place. Shapes are those of transformers' `AttentionInterface`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from transformers import AttentionInterface

from semshare_agents.kv.layout import heads_of, take, tokens_of
from semshare_agents.values import Ints

ATTENTION = "semshare_rows"
CPU_GROUP_ROWS = 64
CPU_RANGE_ROWS = 256
"""Of one unbroken range: larger groups see few keys more in vain, and are fewer calls."""
GPU_GROUP_ROWS = 4096
GROUP_GAP = 512

AttentionObserver = Callable[["RunRows", torch.Tensor, torch.Tensor, float | None], None]
"""`(a run's rows, their queries, its keys, factor of the scores)`, shapes as `rows_attention` gets them."""


class Stop(Protocol):
    """Says whether a pass is still wanted, as a `threading.Event` does."""

    def is_set(self) -> bool:
        """Whether it is to end."""


@dataclass(frozen=True)
class RowGroup:
    """Rows that attend together.

    Attributes:
        first: Index of the first row among the run's.
        last: Index past the last row.
        keys: How many keys the group sees.
        mask: Additive mask `(group * rows, keys)` for the query heads of one KV head; None where causality needs none.
    """

    first: int
    last: int
    keys: int
    mask: torch.Tensor | None


@dataclass
class RunRows:
    """The rows of one run in a forward pass and how they attend; narrowed between layers where a plan asks for it.

    Attributes:
        rows: Positions, ascending, shape `(rows,)`.
        groups: Partition of the rows.
        where: The same positions as a tensor on the model's device.
        observer: Called with every layer's queries and keys; see `AttentionObserver`.
        layer: The layer whose keys and values were last written.
        held: That layer's keys and values, each as `semshare_agents.kv.layout.layer_of` gives them.
    """

    rows: Ints
    groups: list[RowGroup]
    where: torch.Tensor
    observer: AttentionObserver | None = None
    layer: int = -1
    held: tuple[torch.Tensor, torch.Tensor] | None = None

    @property
    def contiguous(self) -> bool:
        """Whether the rows are one unbroken range."""
        return bool(self.rows[-1] - self.rows[0] + 1 == len(self.rows))


@dataclass(frozen=True)
class StepBatch:
    """One forward pass: rows of one run or of several, one run's after the other's.

    Attributes:
        parts: The rows of each run.
        stop: Once set, the pass ends with `ForwardStopped` before its next layer.
        whole_from: From this layer on it is finished all the same; None for none.
    """

    parts: Sequence[RunRows]
    stop: Stop | None = None
    whole_from: int | None = None

    def ends_before(self, layer: int) -> bool:
        """Whether the pass ends before a layer."""
        if self.whole_from is not None and layer >= self.whole_from:
            return False
        return self.stop is not None and self.stop.is_set()

    @property
    def where(self) -> torch.Tensor:
        """Positions of all rows, shape `(rows,)`."""
        return self.parts[0].where if len(self.parts) == 1 else torch.cat([part.where for part in self.parts])


def group_rows(rows: Ints, heads_per_kv: int, device: torch.device, dtype: torch.dtype) -> list[RowGroup]:
    """Partition ascending rows so that each group sees few keys in vain.

    Args:
        rows: Positions, ascending, shape `(rows,)`.
        heads_per_kv: Query heads of one KV head.
        device: Where masks are built.
        dtype: Type of the masks.
    """
    if rows[0] == 0 and rows[-1] == len(rows) - 1 and len(rows) > 1:
        return [RowGroup(0, len(rows), len(rows), None)]
    limit = GPU_GROUP_ROWS
    if device.type == "cpu":
        limit = CPU_RANGE_ROWS if rows[-1] - rows[0] + 1 == len(rows) else CPU_GROUP_ROWS
    breaks = [0]
    for i in range(1, len(rows)):
        if i - breaks[-1] >= limit or rows[i] - rows[i - 1] > GROUP_GAP:
            breaks.append(i)
    breaks.append(len(rows))
    return [_group(rows, a, b, heads_per_kv, device, dtype) for a, b in pairwise(breaks)]


def _group(rows: Ints, a: int, b: int, heads_per_kv: int, device: torch.device, dtype: torch.dtype) -> RowGroup:
    keys = int(rows[b - 1]) + 1
    if b - a == 1:
        return RowGroup(a, b, keys, None)
    own = torch.as_tensor(rows[a:b], device=device)
    lowest = int(rows[a])
    mask = torch.zeros(b - a, keys, device=device, dtype=dtype)
    later = torch.arange(lowest, keys, device=device)[None] > own[:, None]
    mask[:, lowest:].masked_fill_(later, float("-inf"))
    return RowGroup(a, b, keys, mask.repeat(heads_per_kv, 1))


def rows_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    softcap: float | None = None,
    step_batch: StepBatch | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of a pass's rows over their runs' buffers, registered with transformers as `semshare_rows`.

    The query heads of a KV head are folded into its rows, so keys and values are read in place, never repeated.

    Args:
        module: The attention module.
        query: `(1, heads, rows, head_dim)`.
        key: Unused, as what the cache gives back: each run's rows see what `RunRows.held` has.
        value: Unused.
        attention_mask: Unused; causality follows from the rows' positions.
        scaling: Factor of the scores; None for `head_dim ** -0.5`.
        softcap: Bound of the scores (Gemma 2); None for none.
        step_batch: The rows.

    Returns:
        `(1, rows, heads, head_dim)` and no weights.
    """
    assert step_batch is not None, "the semshare attention runs under RowModel alone"
    batch, heads, rows, dim = query.shape
    out = torch.empty(batch, rows, heads, dim, device=query.device, dtype=query.dtype)
    at = 0
    for part in step_batch.parts:
        end = at + len(part.rows)
        _attend(take(query, at, end), part, out[:, at:end], scaling, softcap)
        at = end
    return out, None


def _attend(
    query: torch.Tensor, part: RunRows, out: torch.Tensor, scaling: float | None, softcap: float | None
) -> None:
    """Attention of one run's rows: `(1, heads, rows, head_dim)` into `(1, rows, heads, head_dim)`."""
    assert part.held is not None
    key, value = part.held
    batch, heads, _, dim = query.shape
    kv_heads = heads_of(key)
    for group in part.groups:
        seen = min(group.keys, tokens_of(key))  # fewer than stand before the rows where only a part is kept
        k, v = take(key, 0, seen), take(value, 0, seen)
        q, count = take(query, group.first, group.last), group.last - group.first
        square = group.mask is None and count > 1
        if square and softcap is None:
            made = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scaling, enable_gqa=heads != kv_heads)
        else:
            folded = q.reshape(batch, kv_heads, heads // kv_heads * count, dim)
            if softcap is None:
                made = F.scaled_dot_product_attention(folded, k, v, attn_mask=group.mask, scale=scaling)
            else:
                made = _softcapped(folded, k, v, group, heads // kv_heads, scaling, softcap)
            made = made.view(batch, heads, count, dim)
        out[:, group.first : group.last] = made.transpose(1, 2)
    if part.observer is not None:
        part.observer(part, query, key, scaling)


def _softcapped(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    group: RowGroup,
    fold: int,
    scaling: float | None,
    softcap: float,
) -> torch.Tensor:
    scores = torch.matmul(q, k.transpose(2, 3)) * (q.shape[-1] ** -0.5 if scaling is None else scaling)
    scores = torch.tanh(scores / softcap) * softcap
    count = group.last - group.first
    if group.mask is not None:
        scores = scores + group.mask
    elif count > 1:
        later = torch.ones(count, group.keys, dtype=torch.bool, device=q.device).triu(1)
        scores = scores.masked_fill(later.repeat(fold, 1), float("-inf"))
    return torch.matmul(torch.softmax(scores, dim=-1, dtype=torch.float32).to(q.dtype), v)


def attended(part: RunRows, query: torch.Tensor, key: torch.Tensor, scaling: float | None, rows: int) -> torch.Tensor:
    """What the last `rows` of a run's rows attend to; arguments as a `AttentionObserver` gets them.

    Returns:
        The mean attention that each key of each KV head gets, `(kv_heads, keys)`, float32.
    """
    keys, dim = int(part.rows[-1]) + 1, query.shape[-1]
    q = query[0, :, -rows:].reshape(heads_of(key), -1, dim).float()
    scores = q @ take(key, 0, keys)[0].transpose(1, 2).float() * (dim**-0.5 if scaling is None else scaling)
    where = part.where[-rows:].repeat(q.shape[1] // rows)
    scores.masked_fill_(torch.arange(keys, device=key.device)[None] > where[:, None], float("-inf"))
    return scores.softmax(-1).mean(1)


AttentionInterface.register(ATTENTION, rows_attention)
