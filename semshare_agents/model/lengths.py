"""At which length of a sequence a model begins to compute otherwise than before, asked of the model itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache

from semshare_agents.kv.rotary import rotations
from semshare_agents.values import Reason, ReasonCode

UNKNOWN_CONTEXT = 2048
CONTEXT_NAMES = ("max_position_embeddings", "max_seq_len", "seq_length", "n_positions")
MASKS_ONLY = "semshare_masks"
"""An attention implementation that computes nothing and notes which masks the model asks for."""
NAMES_A_LENGTH = ("window", "chunk", "length", "original_max", "floor", "index_topk", "block_size")
"""Words in the names of configuration values that may be lengths at which something changes."""
FIRST_ROWS = 64

Mask = Callable[..., torch.Tensor]


@dataclass(frozen=True)
class Limit:
    """The longest sequence, prompt and answer, up to which something holds.

    Attributes:
        tokens: Its length.
        reason: What is otherwise past it, in words that follow "1,234 tokens reach past".
        code: What a turn's reason counts as that reaches past it.
    """

    tokens: int
    reason: str
    code: ReasonCode = ReasonCode.MODEL

    def passed(self, tokens: int) -> Reason | None:
        """Why it does not hold for so many tokens; None where it does."""
        return Reason(self.code, f"{tokens} tokens reach past {self.reason}") if tokens > self.tokens else None


def shortest(*limits: Limit | None) -> Limit | None:
    """The first of several limits that a growing sequence reaches."""
    return min((limit for limit in limits if limit is not None), key=lambda limit: limit.tokens, default=None)


def context_tokens(config: Any) -> int:
    """Longest sequence that a text configuration allows."""
    named = (getattr(config, name, None) for name in CONTEXT_NAMES)
    return int(next((size for size in named if isinstance(size, int) and size > 0), UNKNOWN_CONTEXT))


class _Noted:
    """What one forward asks for: masks by the tensor that stands for each, and those that reach an attention."""

    def __init__(self) -> None:
        self.asked: dict[int, tuple[torch.Tensor, Mask]] = {}
        self.used: set[int] = set()
        self.unknown = False

    @property
    def masks(self) -> list[Mask]:
        """The masks in use; all, where a model makes others of them."""
        every = self.unknown or not self.used
        return [mask for name, (_, mask) in self.asked.items() if every or name in self.used]


_noting = Lock()
_noted = _Noted()


def _note_mask(*_: Any, mask_function: Mask, **__: Any) -> torch.Tensor:
    stands_for_it = torch.ones(1, 1, 1, 1, dtype=torch.bool)
    _noted.asked[id(stands_for_it)] = stands_for_it, mask_function
    return stands_for_it


def _note_use(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: Any = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    if id(attention_mask) in _noted.asked:
        _noted.used.add(id(attention_mask))
    else:
        _noted.unknown = True
    return query.new_zeros(query.shape[0], query.shape[2], query.shape[1], value.shape[-1]), None


AttentionInterface.register(MASKS_ONLY, _note_use)
AttentionMaskInterface.register(MASKS_ONLY, _note_mask)


@torch.inference_mode()
def masks_of(model: Any) -> list[Mask]:
    """The mask functions `(batch, head, query, key) -> seen` by which a model's layers attend."""
    ids = torch.zeros(1, 4, dtype=torch.long, device=next(model.parameters()).device)
    with _noting, _attention(model, MASKS_ONLY):
        _noted.__init__()  # type: ignore[misc]
        model(input_ids=ids, use_cache=False)
        return _noted.masks


@contextmanager
def _attention(model: Any, name: str) -> Iterator[None]:
    before = model.config._attn_implementation
    model.set_attn_implementation(name)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def window_limit(model: Any, most: int) -> Limit | None:
    """The longest sequence, up to `most` tokens, in which every layer sees every token before each.

    Three sources, none of which has to be complete: the masks that the model asks for, the layers of the library's own
    cache (some models slide there alone), and windows that attention modules name.
    """
    config = model.config.get_text_config(decoder=True)
    device = next(model.parameters()).device
    hidden = [at for mask in masks_of(model) if (at := _first_hidden(mask, most, device)) is not None]
    slides = [getattr(layer, "sliding_window", None) for layer in DynamicCache(config=config).layers]
    slides += [getattr(module, "sliding_window", None) for module in model.modules()]
    sizes = [*hidden, *(size for size in slides if isinstance(size, int) and 0 < size < most)]
    if not sizes:
        return None
    return Limit(min(sizes), f"the model's sliding window of {min(sizes)}", ReasonCode.WINDOW)


def _first_hidden(mask: Mask, most: int, device: torch.device) -> int | None:
    """The first query, below `most`, from which some earlier key is hidden; None where all are seen.

    All pairs of the first rows are looked at, and of each later row the first keys, the middle one and the one before.
    """
    queries = torch.arange(most, device=device)
    near = queries[:FIRST_ROWS]
    zero = torch.zeros((), dtype=torch.long, device=device)
    seen = torch.ones(most, dtype=torch.bool, device=device)
    square = mask(zero, zero, near[:, None], near[None, :]) | (near[None, :] > near[:, None])
    seen[:FIRST_ROWS] &= square.all(1)
    for keys in (zero, zero + 1, queries // 2, (queries - 1).clamp_min(0)):
        seen &= mask(zero, zero, queries, keys) | (keys > queries)
    hidden = torch.nonzero(~seen)
    return int(hidden[0]) if len(hidden) else None


def rotation_limit(module: Any, arguments: tuple[Any, ...], most: int) -> Limit | None:
    """The longest sequence, up to `most` tokens, in which a rotary module gives a position the rotation it had before.

    Args:
        module: The rotary module; rotations of the first positions are taken beside ever later ones.
        arguments: Its arguments after hidden states and position ids.
        most: The longest sequence asked for.
    """
    few = min(16, most)
    first = rotations(module, arguments, torch.arange(few))

    def kept(tokens: int) -> bool:
        # The batch is of one sequence, so the last position says how long it is.
        beside = rotations(module, arguments, torch.cat([torch.arange(few), torch.tensor([tokens - 1])]))
        return all(torch.equal(a, b[:few]) for a, b in zip(first, beside, strict=True))

    try:
        if kept(most):
            return None
        low, high = few, most
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if kept(middle) else (low, middle)
        return Limit(low, f"the {low} tokens up to which the model rotates all keys alike")
    finally:
        # Some modules keep the rotations of the last length that they saw.
        rotations(module, arguments, torch.arange(few))


def named_lengths(config: Any, most: int) -> dict[int, str]:
    """Lengths below `most` that a configuration names, with the name; RoPE parameters are looked at elsewhere."""
    found: dict[int, str] = {}
    for name, value in vars(config).items():
        if any(word in name for word in NAMES_A_LENGTH) and isinstance(value, int) and 1 < value < most:
            found.setdefault(value, name)
    return dict(sorted(found.items()))
