"""One computing path: the stock transformers forward over any subset of a prompt's rows.

A row is one token position. A `Cache` that scatters fresh keys and values into a full-length buffer, and an attention
function that lets each row see the buffer up to its own position, turn the unmodified model into one that computes
only the rows it is asked for. All rows are a cold prefill, one row is a decoding step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from threading import RLock
from typing import Any

import numpy as np
import torch
from transformers.cache_utils import Cache

from semshare_agents.kv.layout import KV, KVLayout, beside_tokens, gather, layer_of, put, scatter, take
from semshare_agents.model.attention import ATTENTION, AttentionObserver, RunRows, StepBatch, Stop, group_rows
from semshare_agents.model.caching import cache_name
from semshare_agents.values import Ints

RowPruning = Callable[[int, torch.Tensor], torch.Tensor | None]
"""`(layer, deviation of the layer's rows) -> indices of the rows kept above that layer, or None for all`."""


class ForwardStopped(Exception):
    """A forward pass ended early because its caller no longer wants it."""


@dataclass(frozen=True)
class Rows:
    """Rows of one run that a pass computes.

    Attributes:
        token_ids: Token of each row, shape `(rows,)`.
        rows: Position of each row, ascending, shape `(rows,)`.
        buffer: Positions before a row must hold KV or be rows; takes the rows' KV.
        logits: Of how many of the last rows logits are wanted.
        observer: Sees every layer's queries and keys; see `AttentionObserver`.
    """

    token_ids: Ints
    rows: Ints
    buffer: KV
    logits: int = 1
    observer: AttentionObserver | None = None


class ScatterCache(Cache):  # type: ignore[misc]
    """A cache whose update writes the pass's rows into their runs' full-length buffers.

    Args:
        buffers: KV of what each run's rows may see, with room for theirs.
        step_batch: The rows being computed.
        check_layer: Layers whose deviation from what the first buffer held before is kept in `deviation`.
    """

    def __init__(self, buffers: Sequence[KV], step_batch: StepBatch, check_layer: int = -1):
        super().__init__(layers=[])
        self.buffers = buffers
        self.step_batch = step_batch
        self.check_layer = check_layer
        self.deviation: torch.Tensor | None = None

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Scatter a layer's fresh keys and values; the attention takes what the runs hold from the pass."""
        if self.step_batch.ends_before(layer_idx):
            raise ForwardStopped
        at = 0
        for rows, buffer in zip(self.step_batch.parts, self.buffers, strict=True):
            end = at + len(rows.rows)
            rows.layer, rows.held = layer_idx, layer_of(buffer, layer_idx)
            fresh = take(key_states, at, end), take(value_states, at, end)
            if layer_idx == self.check_layer:
                keys, values = (_deviation(*each, rows.where) for each in zip(rows.held, fresh, strict=True))
                self.deviation = keys + values
            for part, of_rows in zip(rows.held, fresh, strict=True):
                if rows.contiguous:
                    put(part, int(rows.rows[0]), of_rows)
                else:
                    scatter(part, rows.where, of_rows)
            at = end
        return key_states, value_states

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Tokens before the pass's first row."""
        return int(self.step_batch.parts[0].rows[0])


def _deviation(held: torch.Tensor, fresh: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
    """Squared distance of fresh from reused keys, or values, relative to their mean size, shape `(rows,)`."""
    distance = (fresh.float() - gather(held, where).float()).square()
    return distance.sum(beside_tokens(distance)) / fresh.float().square().mean().clamp_min(1e-12)


class RowModel:
    """A stock causal language model that computes chosen rows.

    Args:
        model: A transformers causal LM; while rows are computed its attention implementation is `semshare_rows`.
        layers: Its decoder layers, in order.
        layout: What its KV looks like.
    """

    def __init__(self, model: Any, layers: list[torch.nn.Module], layout: KVLayout):
        self.model = model
        self.layers = layers
        self.layout = layout
        self.heads_per_kv = model.config.get_text_config().num_attention_heads // layout.kv_heads
        self.device: torch.device = next(model.parameters()).device
        self.dtype: torch.dtype = model.dtype
        self.cache_name = cache_name(model)
        self._stock_attention = model.config._attn_implementation
        self._switching = RLock()
        self.mixes = False
        """Whether rows of several runs were shown to come out of one pass as each run's alone."""

    @property
    def token_bytes(self) -> int:
        """Bytes of one token's KV over all layers."""
        return self.layout.token_bytes

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

    def run_rows(self, rows: Ints, observer: AttentionObserver | None = None) -> RunRows:
        """Prepare one run's part of a pass: `rows`, ascending positions of shape `(rows,)`."""
        groups = group_rows(rows, self.heads_per_kv, self.device, self.dtype)
        return RunRows(rows, groups, torch.as_tensor(rows, device=self.device), observer)

    def forward(
        self,
        token_ids: Ints,
        rows: Ints,
        buffer: KV,
        logits: int = 1,
        stop: Stop | None = None,
        observer: AttentionObserver | None = None,
    ) -> torch.Tensor:
        """Compute rows of one run; see `Rows` for the arguments, and `together`.

        Returns:
            `(logits, vocabulary)`.

        Raises:
            ForwardStopped: `stop` was set.
        """
        return self.together([Rows(token_ids, rows, buffer, logits, observer)], stop)[0]

    @torch.inference_mode()
    def together(self, parts: Sequence[Rows], stop: Stop | None = None, keeps: bool = False) -> list[torch.Tensor]:
        """Compute rows of several runs in one pass: their KV goes into the runs' buffers.

        Linear layers see all rows as one matrix; each run's rows attend to that run's buffer.

        Args:
            parts: The rows of each run.
            stop: Ends the pass early once set.
            keeps: Finish a pass all the same whose first half is computed: what it computes is kept.

        Returns:
            The logits of each part, `(logits, vocabulary)`.

        Raises:
            ForwardStopped: `stop` was set.
        """
        rows = [self.run_rows(part.rows, part.observer) for part in parts]
        step_batch = StepBatch(rows, stop, len(self.layers) // 2 if keeps else None)
        cache = ScatterCache([part.buffer for part in parts], step_batch)
        token_ids = np.concatenate([part.token_ids for part in parts])
        if len(parts) == 1:
            return [self.compute(token_ids, step_batch, cache, parts[0].logits)]
        ends = np.cumsum([len(part.rows) for part in parts])
        wanted = [np.arange(end - part.logits, end) for part, end in zip(parts, ends, strict=True)]
        found = self.compute(token_ids, step_batch, cache, np.concatenate(wanted))
        return list(torch.split(found, [len(rows) for rows in wanted]))

    @torch.inference_mode()
    def narrowed(self, rows: Rows, prune: RowPruning, check_layer: int = -1, stop: Stop | None = None) -> torch.Tensor:
        """Compute rows of which some are dropped between layers; the last ones' logits are returned.

        Args:
            rows: The rows.
            prune: Called above the watched layer and every layer after it; see `RowPruning`.
            check_layer: Layer whose deviation from the buffer's earlier content is handed to `prune`.
            stop: Ends the pass early once set.

        Returns:
            `(logits, vocabulary)`.

        Raises:
            ForwardStopped: `stop` was set.
        """
        run_rows = self.run_rows(rows.rows, rows.observer)
        step_batch = StepBatch([run_rows], stop)
        cache = ScatterCache([rows.buffer], step_batch, check_layer)
        with self._pruning(run_rows, cache, prune, check_layer):
            return self.compute(rows.token_ids, step_batch, cache, rows.logits)

    @torch.inference_mode()
    def compute(self, token_ids: Ints, step_batch: StepBatch, cache: Cache, logits: int | Ints = 1) -> torch.Tensor:
        """Run the model over a pass's rows.

        Args:
            token_ids: Token of each row, shape `(rows,)`.
            step_batch: The rows.
            cache: Takes the rows' keys and values, gives those that they may see.
            logits: How many of the last rows to return logits for, or which rows.

        Returns:
            `(logits, vocabulary)`.

        Raises:
            ForwardStopped: the cache says so.
        """
        ids = torch.as_tensor(token_ids, device=self.device)[None]
        # A ready 4D mask passes through transformers untouched; rows_attention does not read it.
        mask = torch.zeros(1, 1, 1, 1, device=self.device, dtype=self.dtype)
        keep = logits if isinstance(logits, int) else torch.as_tensor(logits, device=self.device)
        with self.attention(ATTENTION):
            out = self.model(
                input_ids=ids,
                position_ids=step_batch.where[None],
                **{self.cache_name: cache},
                attention_mask=mask,
                use_cache=True,
                logits_to_keep=keep,
                step_batch=step_batch,
            )
        result: torch.Tensor = out.logits[0]
        return result

    @contextmanager
    def _pruning(self, rows: RunRows, cache: ScatterCache, prune: RowPruning, check_layer: int) -> Iterator[None]:
        """Hooks that drop rows between layers: each layer's inputs are cut to the rows still alive."""
        alive = torch.arange(len(rows.rows), device=self.device)

        def cut(
            index: int, args: tuple[Any, ...], kwargs: dict[str, Any]
        ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
            nonlocal alive
            hidden = args[0] if args else kwargs["hidden_states"]
            if index > check_layer >= 0:
                assert cache.deviation is not None
                kept = prune(index, cache.deviation[alive])
                if kept is not None:
                    alive, hidden = alive[kept], hidden[:, kept]
                    rows.rows, rows.where = rows.rows[kept.cpu().numpy()], rows.where[kept]
                    rows.groups = group_rows(rows.rows, self.heads_per_kv, self.device, self.dtype)
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
