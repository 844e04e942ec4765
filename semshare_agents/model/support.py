"""What a model's KV can be used for, found by looking at its configuration and then by trying."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import DynamicCache

from semshare_agents.errors import UnsupportedModelError
from semshare_agents.kv.buffer import BufferPool
from semshare_agents.kv.layout import KV, KVLayout, fill, layer_of, put, tokens_of
from semshare_agents.kv.rotary import KeyMover, RotaryTables
from semshare_agents.model.caching import cache_name
from semshare_agents.model.lengths import (
    Limit,
    context_tokens,
    named_lengths,
    rotation_limit,
    shortest,
    window_limit,
)
from semshare_agents.model.rows import RowModel, Rows
from semshare_agents.model.stock import refusal
from semshare_agents.values import Reason, ReasonCode

STATIC_ROPE = frozenset({"default", "linear", "llama3", "yarn", "proportional"})
"""Rotations that a position has whatever the sequence's length; of others the rotary module has to show its limit."""
ALWAYS_ALIBI = frozenset({"bloom"})
"""Model types with ALiBi positions that no setting of theirs mentions."""
PROBE_TOKENS = 24
PROBE_SHIFT = 64
MADE_UP_BYTES = 512 * 2**20
"""Most bytes of KV made up to try a length."""
TOLERANCE = {torch.float32: 2e-3, torch.bfloat16: 6e-2, torch.float16: 2e-2}
FAILURES = (RuntimeError, TypeError, ValueError, KeyError, AttributeError, AssertionError, IndexError)
"""What a model's code raises where it is run as it was not meant to be."""


@dataclass(frozen=True)
class Support:
    """What works with a model.

    Attributes:
        rows: The row model; None where no KV can be reused, and every turn runs cold through the stock model.
        mover: Moves keys; None where KV is only usable at its own position.
        limit: The longest sequence, prompt and answer, whose rows are the stock model's; longer ones run cold through
            the stock model. None where there is no such limit within the context.
        reason: Why `rows` or `mover` is missing; None otherwise.
    """

    rows: RowModel | None
    mover: KeyMover | None
    limit: Limit | None = None
    reason: Reason | None = None

    @property
    def window_tokens(self) -> int | None:
        """The limit's length; None without one."""
        return None if self.limit is None else self.limit.tokens

    def beyond(self, tokens: int) -> Reason | None:
        """Why a sequence of so many tokens runs on the stock model; None where its rows can be computed."""
        if self.rows is None:
            return self.reason
        return None if self.limit is None else self.limit.passed(tokens)


def examine(model: Any) -> Support:
    """Find out what a model's KV can be used for.

    The configuration rules out what cannot work; a forward pass over a few tokens then proves the rest: rows computed
    through the scattering cache must give the stock logits, and keys moved by rotation must equal keys projected at
    the new position, layer by layer. What may change with length is asked of masks, cache and rotations, and tried
    with made-up KV before it.

    Raises:
        UnsupportedModelError: turns would need the stock model, and cannot run on it.
    """
    support = _examined(model)
    if support.rows is None or support.limit is not None:
        why = refusal(model, support.rows, support.window_tokens or _window(model))
        if why:
            raise UnsupportedModelError(f"{type(model).__name__} cannot answer turns: {why}")
    return support


def _window(model: Any) -> int | None:
    """The window of a model whose rows cannot be computed, where that can be seen."""
    try:
        limit = window_limit(model, context_tokens(model.config.get_text_config()))
    except FAILURES:
        return None
    return None if limit is None else limit.tokens


def _examined(model: Any) -> Support:
    reason = _ruled_out(model)
    layers = None if reason else _decoder_layers(model)
    if reason or layers is None:
        return _stock_alone(reason or "the model has no plain stack of decoder layers")
    probe = _Probe(model)
    if probe.reason:
        return _stock_alone(probe.reason)
    changing = _changing_rope(model.config.get_text_config())
    if changing and not probe.rotary_calls:
        return _stock_alone(f"RoPE of type {changing} may change with the prompt's length")
    assert probe.layout is not None
    rows = RowModel(model, layers, probe.layout)
    try:
        wrong = probe.rows_differ(rows)
        limit = None if wrong else probe.limit(rows)
    except FAILURES as e:
        wrong = f"its forward cannot run on chosen rows ({type(e).__name__}: {e})"
    if wrong:
        return _stock_alone(wrong)
    rows.mixes = probe.mixes(rows)
    mover, why = probe.mover(rows)
    return Support(rows, mover, limit, Reason(ReasonCode.MODEL, why) if why else None)


def _stock_alone(why: str) -> Support:
    """Of a model whose rows cannot be computed."""
    return Support(None, None, None, Reason(ReasonCode.MODEL, why))


def _ruled_out(model: Any) -> str:
    config = model.config.get_text_config()
    if getattr(model.config, "is_encoder_decoder", False):
        return "encoder-decoder model: prompt KV belongs to the encoder"
    alibi = getattr(config, "alibi", False) or config.model_type in ALWAYS_ALIBI
    if alibi or (getattr(config, "attn_config", None) and _mpt_alibi(config)):
        return "ALiBi positions: attention needs a bias of its own"
    kinds = set(getattr(config, "layer_types", None) or ())
    other = kinds - {"full_attention", "sliding_attention"}
    if other:
        return f"layers without plain attention KV: {', '.join(sorted(other))}"
    return ""


def _mpt_alibi(config: Any) -> bool:
    attn = config.attn_config
    return bool(attn.get("alibi") if isinstance(attn, dict) else getattr(attn, "alibi", False))


def _changing_rope(config: Any) -> str:
    """The first type of RoPE whose rotations may depend on the sequence's length; empty without one."""
    kinds = (parameters.get("rope_type", "default") for parameters in _rope_parameters(config))
    return next((kind for kind in kinds if kind not in STATIC_ROPE), "")


def _rope_parameters(config: Any) -> list[dict[str, Any]]:
    """The RoPE parameters, one dict for each kind of layer."""
    parameters = getattr(config, "rope_parameters", None) or {}
    nested = [v for v in parameters.values() if isinstance(v, dict)]
    return nested or [parameters]


def _decoder_layers(model: Any) -> list[torch.nn.Module] | None:
    count = getattr(model.config.get_text_config(), "num_hidden_layers", None)
    for module in model.modules():
        if isinstance(module, torch.nn.ModuleList) and len(module) == count:
            return list(module)
    return None


def _relative(a: torch.Tensor, b: torch.Tensor) -> float:
    """Largest difference relative to the reference's mean size."""
    scale = b.float().abs().mean().clamp_min(1e-6)
    return float((a.float() - b.float()).abs().mean() / scale)


class _Probe:
    """A few tokens through the stock model at two offsets, and what its rotary modules were asked for."""

    def __init__(self, model: Any):
        self.model = model
        self.tolerance = TOLERANCE.get(model.dtype, 2e-3)
        self.rotary_calls: list[tuple[Any, tuple[Any, ...]]] = []
        vocabulary = model.config.get_text_config().vocab_size
        self.ids = np.random.default_rng(0).integers(0, vocabulary, PROBE_TOKENS)
        self.layout: KVLayout | None = None
        self.movable = 0
        """How many positions have one rotation each, whatever the sequence's length."""
        self.reason = ""
        hooks = [
            m.register_forward_hook(self._note_rotary, with_kwargs=True)
            for name, m in model.named_modules()
            if "rotary" in name.rsplit(".", 1)[-1].lower()
        ]
        try:
            self.logits, self.stock = self._run(0)
        except FAILURES as e:
            self.reason = f"a stock forward with a plain cache fails ({type(e).__name__}: {e})"
        finally:
            for hook in hooks:
                hook.remove()
        if not self.reason:
            self._look()

    def _note_rotary(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        rest = tuple(args[2:]) + tuple(v for k, v in kwargs.items() if k not in ("x", "hidden_states", "position_ids"))
        if not any(m is module and a == rest for m, a in self.rotary_calls):
            self.rotary_calls.append((module, rest))

    @torch.inference_mode()
    def _run(self, offset: int, cache: Any = None) -> tuple[torch.Tensor, Any]:
        cache = DynamicCache() if cache is None else cache
        device = next(self.model.parameters()).device
        ids = torch.as_tensor(self.ids, device=device)[None]
        positions = torch.arange(offset, offset + len(self.ids), device=device)[None]
        out = self.model(input_ids=ids, position_ids=positions, use_cache=True, **{cache_name(self.model): cache})
        return out.logits[0], cache

    def _look(self) -> None:
        count = self.model.config.get_text_config().num_hidden_layers
        layers = [(layer.keys, layer.values) for layer in self.stock.layers]
        self.layout = KVLayout.of(layers, self.model.dtype) if len(layers) == count else None
        if self.layout is None:
            self.reason = "its layers do not all keep keys and values of one shape"
        elif any(tokens_of(part) != len(self.ids) for layer in layers for part in layer if part is not None):
            self.reason = "its cache does not keep every token"

    def rows_differ(self, rows: RowModel, past: KV | None = None) -> str:
        """Why rows computed through the scattering cache cannot be trusted; empty where they can.

        Args:
            rows: The row model.
            past: KV that stands before the probe's tokens; None for none.
        """
        before = 0 if past is None else tokens_of(past)
        wanted = self.logits if past is None else self._run(before, _cached(past, rows.layout.layers))[0]
        buffer = BufferPool(rows.layout, rows.device, keep=0).acquire(before + len(self.ids))
        if past is not None:
            put(buffer, 0, past)
        everything = before + np.arange(len(self.ids))
        cold = rows.forward(self.ids, everything, buffer, logits=len(self.ids))
        if not _relative(cold, wanted) < self.tolerance:
            return "a full pass through the scattering cache differs from the stock forward"
        some = everything[np.arange(len(everything)) % 3 != 1]
        fill(buffer, torch.as_tensor(some, device=rows.device), 1.0)
        restored = rows.forward(self.ids[some - before], some, buffer)
        if not _relative(restored[-1], wanted[-1]) < self.tolerance:
            return "chosen rows differ from the stock forward"
        return ""

    def mixes(self, rows: RowModel) -> bool:
        """Whether a prompt's chunk and another run's token come out of one pass as they come out alone."""
        pool, half = BufferPool(rows.layout, rows.device, keep=0), len(self.ids) // 2
        long, short = pool.acquire(len(self.ids)), pool.acquire(len(self.ids))
        everything = np.arange(len(self.ids))
        try:
            rows.forward(self.ids[:half], everything[:half], long)
            rows.forward(self.ids[:-1][::-1].copy(), everything[:-1], short)
            chunk = Rows(self.ids[half:], everything[half:], long)
            token = Rows(self.ids[:1], everything[-1:], short)
            alone = rows.forward(token.token_ids, token.rows, short)
            beside, other = rows.together([token, chunk])
        except FAILURES:
            return False
        found, wanted = torch.cat([beside, other]), torch.cat([alone, self.logits[-1:]])
        return found.shape == wanted.shape and all(map(self._alike, found, wanted))

    def _alike(self, a: torch.Tensor, b: torch.Tensor) -> bool:
        return _relative(a, b) < self.tolerance

    def limit(self, rows: RowModel) -> Limit | None:
        """The first length past which rows are not the stock model's, or could not be shown to be."""
        context = context_tokens(self.model.config.get_text_config())
        turning = shortest(*(rotation_limit(module, rest, context) for module, rest in self.rotary_calls))
        self.movable = turning.tokens if turning else context
        limit = shortest(window_limit(self.model, context), turning)
        for tokens, name in named_lengths(
            self.model.config.get_text_config(), limit.tokens if limit else context
        ).items():
            named = f"the configuration's {name} of {tokens}"
            if tokens * rows.token_bytes > MADE_UP_BYTES:
                return Limit(tokens, f"{named}, too long to be tried when the model is loaded")
            if tokens > PROBE_TOKENS and self.rows_differ(rows, self._made_up(rows, tokens - PROBE_TOKENS // 2)):
                return Limit(tokens, f"{named}, from which rows differ from the stock forward")
        return limit

    def _made_up(self, rows: RowModel, tokens: int) -> KV:
        """KV of no text, its numbers of the size that the probe's have."""
        draw = torch.Generator(device=rows.device).manual_seed(0)
        made = rows.layout.empty(tokens, rows.device)
        for layer, kept in enumerate(self.stock.layers):
            for part, like in zip(layer_of(made, layer), (kept.keys, kept.values), strict=True):
                size, middle = like.float().std(), like.float().mean()
                part.normal_(float(middle), float(size), generator=draw)
        return made

    def mover(self, rows: RowModel) -> tuple[KeyMover | None, str]:
        """The key mover, or None and why keys cannot be moved; proved at a short shift and at the longest there is."""
        tables = [RotaryTables(module, rest, rows.device, self.movable) for module, rest in self.rotary_calls]
        tables = [t for t in tables if t.rotary_dim and t.rotary_dim <= rows.layout.head_dim]
        farthest = max(1, self.movable - PROBE_TOKENS)
        try:
            shifted = {shift: self._run(shift)[1].layers for shift in {min(PROBE_SHIFT, farthest), farthest}}
        except FAILURES as e:
            return None, f"a stock forward at other positions fails ({type(e).__name__}: {e}): keys cannot be moved"
        chosen: list[int] = []
        for layer, here in enumerate(self.stock.layers):
            there = {shift: layers[layer] for shift, layers in shifted.items()}
            errors = {index: self._moving_error(tables, index, here, there) for index in range(-1, len(tables))}
            best = min(errors, key=lambda i: errors[i])
            if not errors[best] < self.tolerance:
                return None, _unmoved(layer, bool(tables))
            chosen.append(best)
        return KeyMover(tables, chosen), ""

    @staticmethod
    def _moving_error(tables: list[RotaryTables], index: int, here: Any, there: dict[int, Any]) -> float:
        """The worst error of a layer's moved keys, and of its values where they are, over all shifts."""
        worst = 0.0
        for shift, layer in there.items():
            source = np.arange(tokens_of(here.keys))
            moved = here.keys.clone()  # one layer's keys, which is what a batch of one looks like
            KeyMover(tables, [index]).move(moved, source, source + shift)
            worst = max(worst, _relative(moved, layer.keys), _relative(here.values, layer.values))
        return worst


def _unmoved(layer: int, rotated: bool) -> str:
    if not rotated:
        return "keys differ from position to position, and no rotary position embedding was found: they cannot be moved"
    return f"moved keys of layer {layer} differ from keys computed at the new position"


def _cached(kv: KV, layers: int) -> DynamicCache:
    """A cache of the library that holds `kv`."""
    cache = DynamicCache()
    for layer in range(layers):
        cache.update(*layer_of(kv, layer), layer)
    return cache
