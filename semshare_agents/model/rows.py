"""One computing path: the stock transformers forward over any subset of a prompt's rows.

A row is one token position. A `Cache` that scatters fresh keys and values into a full-length buffer, and an attention
function that lets each row see the buffer up to its own position, turn the unmodified model into one that computes
only the rows it is asked for. All rows are a cold prefill, one row is a decoding step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from threading import Event, Lock, RLock
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from transformers import AttentionInterface
from transformers.cache_utils import Cache

from semshare_agents.model.caching import cache_name
from semshare_agents.values import Ints

ATTENTION = "semshare_rows"
CPU_GROUP_ROWS = 64
GPU_GROUP_ROWS = 4096
GROUP_GAP = 512

Narrow = Callable[[int, torch.Tensor], torch.Tensor | None]
"""`(layer, deviation of the layer's rows) -> indices of the rows kept above that layer, or None for all`."""


Watch = Callable[["RowPass", torch.Tensor, torch.Tensor, float | None], None]
"""`(pass, queries (1, heads, rows, head_dim), keys (1, kv_heads, capacity, head_dim), factor of the scores)`."""


class ForwardStopped(Exception):
    """A forward pass ended early because its caller no longer wants it."""


@dataclass(frozen=True)
class RowGroup:
    """Rows that attend together.

    Attributes:
        first: Index of the first row in the pass.
        last: Index past the last row.
        keys: How many keys the group sees.
        mask: Additive mask `(group * rows, keys)` for the query heads of one KV head; None where causality needs none.
    """

    first: int
    last: int
    keys: int
    mask: torch.Tensor | None


@dataclass
class RowPass:
    """The rows of one forward pass and how they attend; narrowed between layers where a plan asks for it.

    Attributes:
        rows: Positions, ascending, shape `(rows,)`.
        groups: Partition of the rows.
        where: The same positions as a tensor on the model's device.
        stop: Once set, the pass ends with `ForwardStopped` before its next layer.
        watch: Called with every layer's queries and keys; see `Watch`.
        layer: The layer whose keys and values were last written.
    """

    rows: Ints
    groups: list[RowGroup]
    where: torch.Tensor
    stop: Event | None = None
    watch: Watch | None = None
    layer: int = -1

    @property
    def contiguous(self) -> bool:
        """Whether the rows are one unbroken range."""
        return bool(self.rows[-1] - self.rows[0] + 1 == len(self.rows))


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
    limit = CPU_GROUP_ROWS if device.type == "cpu" else GPU_GROUP_ROWS
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
    row_pass: RowPass | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of a pass's rows over the whole buffer, registered with transformers as `semshare_rows`.

    The query heads of a KV head are folded into its rows, so keys and values are read in place, never repeated.

    Args:
        module: The attention module.
        query: `(1, heads, rows, head_dim)`.
        key: `(1, kv_heads, capacity, head_dim)`.
        value: `(1, kv_heads, capacity, head_dim)`.
        attention_mask: Unused; causality follows from the rows' positions.
        scaling: Factor of the scores; None for `head_dim ** -0.5`.
        softcap: Bound of the scores (Gemma 2); None for none.
        row_pass: The rows.

    Returns:
        `(1, rows, heads, head_dim)` and no weights.
    """
    assert row_pass is not None, "the semshare attention runs under RowModel.forward only"
    batch, heads, rows, dim = query.shape
    kv_heads = key.shape[1]
    out = torch.empty(batch, rows, heads, dim, device=query.device, dtype=query.dtype)
    for group in row_pass.groups:
        k, v = key[:, :, : group.keys], value[:, :, : group.keys]
        q, count = query[:, :, group.first : group.last], group.last - group.first
        square = group.mask is None and count > 1
        if square and softcap is None:
            part = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scaling, enable_gqa=heads != kv_heads)
        else:
            folded = q.reshape(batch, kv_heads, heads // kv_heads * count, dim)
            if softcap is None:
                part = F.scaled_dot_product_attention(folded, k, v, attn_mask=group.mask, scale=scaling)
            else:
                part = _softcapped(folded, k, v, group, heads // kv_heads, scaling, softcap)
            part = part.view(batch, heads, count, dim)
        out[:, group.first : group.last] = part.transpose(1, 2)
    if row_pass.watch is not None:
        row_pass.watch(row_pass, query, key, scaling)
    return out, None


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


AttentionInterface.register(ATTENTION, rows_attention)


class ScatterCache(Cache):  # type: ignore[misc]
    """A cache whose update writes the pass's rows into a full-length buffer and returns the whole buffer.

    Args:
        buffer: `(layers, 2, kv_heads, capacity, head_dim)`; keys first, then values.
        row_pass: The rows being computed.
        watch: Layers whose deviation from what the buffer held before is kept in `deviation`.
    """

    def __init__(self, buffer: torch.Tensor, row_pass: RowPass, watch: int = -1):
        super().__init__(layers=[])
        self.buffer = buffer
        self.row_pass = row_pass
        self.watch = watch
        self.deviation: torch.Tensor | None = None

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Scatter `(1, kv_heads, rows, head_dim)` keys and values; returns `(1, kv_heads, capacity, head_dim)`."""
        keys, values = self.buffer[layer_idx, 0], self.buffer[layer_idx, 1]
        rows = self.row_pass
        if rows.stop is not None and rows.stop.is_set():
            raise ForwardStopped
        rows.layer = layer_idx
        if layer_idx == self.watch:
            self.deviation = _deviation(keys, values, key_states[0], value_states[0], rows.where)
        if rows.contiguous:
            span = slice(int(rows.rows[0]), int(rows.rows[-1]) + 1)
            keys[:, span], values[:, span] = key_states[0], value_states[0]
        else:
            keys.index_copy_(1, rows.where, key_states[0])
            values.index_copy_(1, rows.where, value_states[0])
        return keys[None], values[None]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Tokens before the pass's first row."""
        return int(self.row_pass.rows[0])


def _deviation(
    keys: torch.Tensor, values: torch.Tensor, fresh_k: torch.Tensor, fresh_v: torch.Tensor, where: torch.Tensor
) -> torch.Tensor:
    """Squared distance of fresh from reused keys and values, each relative to its mean size, shape `(rows,)`."""
    old_k, old_v = keys.index_select(1, where).float(), values.index_select(1, where).float()
    dk = (fresh_k.float() - old_k).square().sum((0, 2)) / fresh_k.float().square().mean().clamp_min(1e-12)
    dv = (fresh_v.float() - old_v).square().sum((0, 2)) / fresh_v.float().square().mean().clamp_min(1e-12)
    return dk + dv


class RowModel:
    """A stock causal language model that computes chosen rows.

    Args:
        model: A transformers causal LM; while rows are computed its attention implementation is `semshare_rows`.
        layers: Its decoder layers, in order.
        kv_heads: KV heads of each layer.
        head_dim: Size of a head.
    """

    def __init__(self, model: Any, layers: list[torch.nn.Module], kv_heads: int, head_dim: int):
        self.model = model
        self.layers = layers
        self.kv_heads = kv_heads
        self.head_dim = head_dim
        self.heads_per_kv = model.config.get_text_config().num_attention_heads // kv_heads
        self.device: torch.device = next(model.parameters()).device
        self.dtype: torch.dtype = model.dtype
        self.cache_name = cache_name(model)
        self._stock_attention = model.config._attn_implementation
        self._switching = RLock()

    @property
    def token_bytes(self) -> int:
        """Bytes of one token's KV over all layers."""
        return len(self.layers) * 2 * self.kv_heads * self.head_dim * self.dtype.itemsize

    @contextmanager
    def attention(self, name: str) -> Iterator[None]:
        """Run with another attention implementation; who else runs this model, on another thread, waits."""
        with self._switching:
            before = self.model.config._attn_implementation
            if before != name:
                self.model.set_attn_implementation(name)
            try:
                yield
            finally:
                if before != name:
                    self.model.set_attn_implementation(before)

    @contextmanager
    def stock(self) -> Iterator[Any]:
        """The model with the attention implementation it was loaded with."""
        with self.attention(self._stock_attention):
            yield self.model

    def row_pass(self, rows: Ints) -> RowPass:
        """Prepare a pass over `rows`, ascending positions of shape `(rows,)`."""
        groups = group_rows(rows, self.heads_per_kv, self.device, self.dtype)
        return RowPass(rows, groups, torch.as_tensor(rows, device=self.device))

    @torch.inference_mode()
    def forward(
        self,
        token_ids: Ints,
        rows: Ints,
        buffer: torch.Tensor,
        logits: int = 1,
        narrow: Narrow | None = None,
        watch: int = -1,
        stop: Event | None = None,
        attention_watch: Watch | None = None,
    ) -> torch.Tensor:
        """Compute rows: their KV goes into the buffer, the last ones' logits are returned.

        Args:
            token_ids: Token of each row, shape `(rows,)`.
            rows: Position of each row, ascending, shape `(rows,)`.
            buffer: `(layers, 2, kv_heads, capacity, head_dim)`; positions before a row must hold KV or be rows.
            logits: How many of the last rows to return logits for.
            narrow: Called above the watched layer and every layer after it; see `Narrow`.
            watch: Layer whose deviation from the buffer's earlier content is handed to `narrow`.
            stop: Ends the pass early once set.
            attention_watch: Sees every layer's queries and keys; see `Watch`.

        Returns:
            `(logits, vocabulary)`.

        Raises:
            ForwardStopped: `stop` was set.
        """
        row_pass = self.row_pass(rows)
        row_pass.stop, row_pass.watch = stop, attention_watch
        cache = ScatterCache(buffer, row_pass, watch)
        ids = torch.as_tensor(token_ids, device=self.device)[None]
        # A ready 4D mask passes through transformers untouched; rows_attention does not read it.
        mask = torch.zeros(1, 1, 1, 1, device=self.device, dtype=self.dtype)
        with self.attention(ATTENTION), self._narrowing(row_pass, cache, narrow, watch):
            out = self.model(
                input_ids=ids,
                position_ids=row_pass.where[None],
                **{self.cache_name: cache},
                attention_mask=mask,
                use_cache=True,
                logits_to_keep=logits,
                row_pass=row_pass,
            )
        result: torch.Tensor = out.logits[0]
        return result

    @contextmanager
    def _narrowing(self, row_pass: RowPass, cache: ScatterCache, narrow: Narrow | None, watch: int) -> Iterator[None]:
        """Hooks that drop rows between layers: each layer's inputs are cut to the rows still alive."""
        if narrow is None:
            yield
            return
        alive = torch.arange(len(row_pass.rows), device=self.device)

        def cut(
            index: int, args: tuple[Any, ...], kwargs: dict[str, Any]
        ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
            nonlocal alive
            hidden = args[0] if args else kwargs["hidden_states"]
            if index > watch >= 0:
                assert cache.deviation is not None
                kept = narrow(index, cache.deviation[alive])
                if kept is not None:
                    alive, hidden = alive[kept], hidden[:, kept]
                    row_pass.rows = row_pass.rows[kept.cpu().numpy()]
                    row_pass.where = row_pass.where[kept]
                    row_pass.groups = group_rows(row_pass.rows, self.heads_per_kv, self.device, self.dtype)
            kwargs = {k: self._cut_argument(k, v, alive) for k, v in kwargs.items() if k != "hidden_states"}
            return (hidden, *args[1:]), kwargs

        hooks = [
            layer.register_forward_pre_hook(lambda _, a, k, i=i: cut(i, a, k), with_kwargs=True)
            for i, layer in enumerate(self.layers)
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    @staticmethod
    def _cut_argument(name: str, value: Any, alive: torch.Tensor) -> Any:
        if name.startswith("position_embeddings") and isinstance(value, tuple):
            return tuple(part[:, alive] for part in value)
        if name == "position_ids" and value is not None:
            return value[:, alive]
        return value


class BufferPool:
    """Full-length KV buffers, kept for reuse because fresh memory costs more than filling it.

    Args:
        rows: The model they serve.
        keep: How many free buffers to keep.
    """

    STEP_TOKENS = 512

    def __init__(self, rows: RowModel, keep: int = 2):
        self._rows = rows
        self._keep = keep
        self._free: list[torch.Tensor] = []
        self._lock = Lock()

    def acquire(self, tokens: int) -> torch.Tensor:
        """A buffer `(layers, 2, kv_heads, capacity, head_dim)` with room for `tokens`; its content is undefined."""
        with self._lock:
            fitting = sorted((b for b in self._free if b.shape[3] >= tokens), key=lambda b: b.shape[3])
            if fitting:
                self._free = [b for b in self._free if b is not fitting[0]]
                return fitting[0]
        capacity = -(-tokens // self.STEP_TOKENS) * self.STEP_TOKENS
        rows = self._rows
        shape = (len(rows.layers), 2, rows.kv_heads, capacity, rows.head_dim)
        if rows.device.type != "cpu":
            return torch.zeros(shape, dtype=rows.dtype, device=rows.device)
        # NumPy asks the kernel for huge pages on large arrays: first use is several times faster than torch.empty.
        raw = np.zeros(int(np.prod(shape)) * rows.dtype.itemsize, dtype=np.uint8)
        return torch.from_numpy(raw).view(rows.dtype).view(shape)

    def release(self, buffer: torch.Tensor) -> None:
        """Give a buffer back; the smallest of too many is dropped."""
        with self._lock:
            self._free = sorted([*self._free, buffer], key=lambda b: b.shape[3])[
                max(0, len(self._free) + 1 - self._keep) :
            ]
