"""What a model's KV can be used for, found by looking at its configuration and then by trying."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import DynamicCache

from semshare_agents.model.caching import cache_name
from semshare_agents.model.rotary import KeyMover, RotaryTables
from semshare_agents.model.rows import BufferPool, RowModel

STATIC_ROPE = frozenset({"default", "linear", "llama3", "yarn"})
ALWAYS_ALIBI = frozenset({"bloom"})
"""Model types with ALiBi positions that no setting of theirs mentions."""
PROBE_TOKENS = 24
PROBE_SHIFT = 64
TOLERANCE = {torch.float32: 2e-3, torch.bfloat16: 6e-2, torch.float16: 2e-2}


@dataclass(frozen=True)
class Support:
    """What works with a model.

    Attributes:
        rows: The row model; None where no KV can be reused, and every turn runs cold through the stock model.
        mover: Moves keys; None where KV is only usable at its own position.
        window_tokens: Longest sequence for which sliding layers see everything; None without sliding layers.
        reason: Why `rows` or `mover` is missing; empty otherwise.
    """

    rows: RowModel | None
    mover: KeyMover | None
    window_tokens: int | None
    reason: str = ""


def examine(model: Any) -> Support:
    """Find out what a model's KV can be used for.

    The configuration rules out what cannot work; a forward pass over a few tokens then proves the rest: rows computed
    through the scattering cache must give the stock logits, and keys moved by rotation must equal keys projected at
    the new position, layer by layer.
    """
    reason = _ruled_out(model)
    layers = None if reason else _decoder_layers(model)
    if reason or layers is None:
        return Support(None, None, None, reason or "the model has no plain stack of decoder layers")
    probe = _Probe(model)
    if probe.reason:
        return Support(None, None, None, probe.reason)
    rows = RowModel(model, layers, probe.kv_heads, probe.head_dim)
    try:
        wrong = probe.rows_differ(rows)
    except (RuntimeError, TypeError, ValueError, KeyError, AttributeError, AssertionError) as e:
        wrong = f"its forward cannot run on chosen rows ({type(e).__name__}: {e})"
    if wrong:
        return Support(None, None, None, wrong)
    mover, why = probe.mover(rows)
    return Support(rows, mover, _window_tokens(model), why)


def _ruled_out(model: Any) -> str:
    config = model.config.get_text_config()
    if getattr(model.config, "is_encoder_decoder", False):
        return "encoder-decoder model: prompt KV belongs to the encoder"
    alibi = getattr(config, "alibi", False) or config.model_type in ALWAYS_ALIBI
    if alibi or (getattr(config, "attn_config", None) and _mpt_alibi(config)):
        return "ALiBi positions: keys cannot be moved, and attention needs its own bias"
    kinds = set(getattr(config, "layer_types", None) or ())
    other = kinds - {"full_attention", "sliding_attention"}
    if other:
        return f"layers without plain attention KV: {', '.join(sorted(other))}"
    for parameters in _rope_parameters(config):
        kind = parameters.get("rope_type", "default")
        if kind not in STATIC_ROPE:
            return f"RoPE of type {kind} changes with the prompt's length"
    return ""


def _mpt_alibi(config: Any) -> bool:
    attn = config.attn_config
    return bool(attn.get("alibi") if isinstance(attn, dict) else getattr(attn, "alibi", False))


def _rope_parameters(config: Any) -> list[dict[str, Any]]:
    """The RoPE parameters, one dict for each kind of layer."""
    parameters = getattr(config, "rope_parameters", None) or {}
    nested = [v for v in parameters.values() if isinstance(v, dict)]
    return nested or [parameters]


def _decoder_layers(model: Any) -> list[torch.nn.Module] | None:
    count = model.config.get_text_config().num_hidden_layers
    for module in model.modules():
        if isinstance(module, torch.nn.ModuleList) and len(module) == count:
            return list(module)
    return None


def _window_tokens(model: Any) -> int | None:
    windows = [getattr(m, "sliding_window", None) for m in model.modules()]
    sizes = [w for w in windows if isinstance(w, int) and w > 0]
    return min(sizes) if sizes else None


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
        self.kv_heads = self.head_dim = 0
        self.reason = ""
        hooks = [
            m.register_forward_hook(self._note_rotary, with_kwargs=True)
            for name, m in model.named_modules()
            if "rotary" in name.rsplit(".", 1)[-1].lower()
        ]
        try:
            self.logits, self.stock = self._run(0)
            _, self.shifted = self._run(PROBE_SHIFT)
        except (RuntimeError, TypeError, ValueError, KeyError, AttributeError) as e:
            self.reason = f"a stock forward with a plain cache fails ({type(e).__name__}: {e})"
        finally:
            for hook in hooks:
                hook.remove()
        if not self.reason:
            self._shapes()

    def _note_rotary(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        rest = tuple(args[2:]) + tuple(v for k, v in kwargs.items() if k not in ("x", "hidden_states", "position_ids"))
        if isinstance(out, tuple) and not any(m is module and a == rest for m, a in self.rotary_calls):
            self.rotary_calls.append((module, rest))

    @torch.inference_mode()
    def _run(self, offset: int) -> tuple[torch.Tensor, Any]:
        cache = DynamicCache()
        device = next(self.model.parameters()).device
        ids = torch.as_tensor(self.ids, device=device)[None]
        positions = torch.arange(offset, offset + len(self.ids), device=device)[None]
        out = self.model(input_ids=ids, position_ids=positions, use_cache=True, **{cache_name(self.model): cache})
        return out.logits[0], cache

    def _shapes(self) -> None:
        count = self.model.config.get_text_config().num_hidden_layers
        layers = self.stock.layers
        shapes = {tuple(t.shape) for layer in layers for t in (layer.keys, layer.values) if t is not None}
        if len(layers) != count or len(shapes) != 1 or len(next(iter(shapes))) != 4:
            self.reason = "its layers do not all keep keys and values of one shape"
            return
        _, self.kv_heads, tokens, self.head_dim = next(iter(shapes))
        if tokens != len(self.ids):
            self.reason = "its cache does not keep every token"

    def rows_differ(self, rows: RowModel) -> str:
        """Why rows computed through the scattering cache cannot be trusted; empty where they can."""
        buffer = BufferPool(rows).acquire(len(self.ids))
        everything = np.arange(len(self.ids))
        cold = rows.forward(self.ids, everything, buffer, logits=len(self.ids))
        if not _relative(cold, self.logits) < self.tolerance:
            return "a full pass through the scattering cache differs from the stock forward"
        some = everything[everything % 3 != 1]
        buffer[:, :, :, some] = 1.0
        restored = rows.forward(self.ids[some], some, buffer)
        if not _relative(restored[-1], self.logits[-1]) < self.tolerance:
            return "chosen rows differ from the stock forward"
        return ""

    def mover(self, rows: RowModel) -> tuple[KeyMover | None, str]:
        """The key mover, or None and why keys cannot be moved."""
        tables = [RotaryTables(module, rest, rows.device) for module, rest in self.rotary_calls]
        tables = [t for t in tables if t.rotary_dim <= self.head_dim]
        if not tables:
            return None, "no rotary position embedding was found: keys cannot be moved"
        source = np.arange(len(self.ids))
        chosen: list[int] = []
        for layer, (here, there) in enumerate(zip(self.stock.layers, self.shifted.layers, strict=True)):
            errors = {}
            for index in range(-1, len(tables)):
                moved = here.keys[None, 0].clone()
                KeyMover(tables, [index]).move(moved, source, source + PROBE_SHIFT)
                errors[index] = _relative(moved[0], there.keys[0])
            best = min(errors, key=lambda i: errors[i])
            if not errors[best] < self.tolerance or not _relative(there.values, here.values) < self.tolerance:
                return None, f"moved keys of layer {layer} differ from keys computed at the new position"
            chosen.append(best)
        return KeyMover(tables, chosen), ""
