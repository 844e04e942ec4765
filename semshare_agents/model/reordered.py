"""Linear layers whose weights lie in the order in which oneDNN multiplies them.

On a CPU a plain matrix product with few rows (decoding, drafts, repair, short prefills) takes longer than reading its
weights; oneDNN's kernels on weights that were reordered once come nearer to that limit.
"""

from __future__ import annotations

from collections import Counter
from copy import deepcopy
from typing import Any

import torch
import torch.nn.functional as F

PROBE_TOKENS = 12
TOLERANCE = 1e-3
"""Most that logits may differ from those on plain weights, relative to their mean size; rounding differs by 1e-6."""


class ReorderedLinear(torch.nn.Linear):
    """A linear layer on a reordered weight; `reorder` makes it of a plain one, in place.

    Its weight is opaque: it has a shape, a type and a device, `to_dense()` gives back the plain one bit by bit, and who
    writes plain numbers into it gets an error. A weight that other modules need too (tied embeddings) stays plain, with
    a reordered copy beside it, which follows it when it is written.
    """

    _copy: torch.Tensor | None = None
    _version: int = 0

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """As of `torch.nn.Linear`; an input that the reordered weight cannot take meets the plain one."""
        if input.dtype is not torch.float32 or input.requires_grad:
            plain = self.weight.to_dense() if self._copy is None else self.weight
            return F.linear(input, plain, self.bias)
        if self._copy is not None and _version(self.weight) != self._version:
            self.renew()
        weight = self.weight if self._copy is None else self._copy
        made: torch.Tensor = torch.ops.mkldnn._linear_pointwise(input, weight, self.bias, "none", [], "")
        return made

    def __deepcopy__(self, memo: dict[int, Any]) -> torch.nn.Linear:
        """A copy is a plain layer: opaque weights cannot be copied."""
        made = torch.nn.Linear.__new__(torch.nn.Linear)
        memo[id(self)] = made
        plain = {"weight": self.weight if self._copy is not None else torch.nn.Parameter(self.weight.to_dense(), False)}
        own = {name: value for name, value in vars(self).items() if name not in ("_parameters", "_copy", "_version")}
        vars(made).update(deepcopy({**own, "_parameters": {**self._parameters, **plain}}, memo))
        return made

    def renew(self) -> None:
        """Reorder a weight again that is kept plain: it may have been written."""
        if self._copy is not None:
            self._copy, self._version = _reordered(self.weight), _version(self.weight)

    def take(self, shared: bool) -> None:
        """Begin with the plain weight that the layer has.

        Args:
            shared: Whether other modules have it too.
        """
        if shared:
            self._copy, self._version = _reordered(self.weight), _version(self.weight)
        else:
            self.weight = torch.nn.Parameter(_reordered(self.weight), requires_grad=False)

    def give_back(self) -> None:
        """Have a plain weight again."""
        if self._copy is None:
            self.weight = torch.nn.Parameter(self.weight.to_dense(), requires_grad=False)
        self._copy = None


def _reordered(weight: torch.Tensor) -> torch.Tensor:
    made: torch.Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.detach())
    return made


def _version(weight: torch.Tensor) -> int:
    return -1 if weight.is_inference() else weight._version


def reorder(model: Any) -> bool:
    """Let a model's plain linear layers work on reordered weights; memory stays what it was, but for shared weights.

    Args:
        model: A transformers model; left as it is where it is not float32 on a CPU, or where its logits on a few tokens
            would differ from before.

    Returns:
        Whether it works on reordered weights now.
    """
    plain = [module for module in model.modules() if type(module) is torch.nn.Linear]
    if not plain or model.device.type != "cpu" or model.dtype is not torch.float32:
        return False
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    before, uses = _logits(model), _uses(model)
    for module in plain:
        shared = uses[id(module.weight)] > 1
        module.__class__ = ReorderedLinear
        assert isinstance(module, ReorderedLinear)
        module.take(shared)
    try:
        after = _logits(model)
        equal = bool((after - before).abs().mean() <= TOLERANCE * before.abs().mean())
    except (RuntimeError, TypeError, AttributeError, NotImplementedError, ValueError):
        equal = False  # some of the model's code takes weights out of its layers
    if not equal:
        restore(model)
    return equal


def restore(model: Any) -> None:
    """Let a model's linear layers work on plain weights again."""
    for module in model.modules():
        if isinstance(module, ReorderedLinear):
            module.give_back()
            module.__class__ = torch.nn.Linear  # type: ignore[assignment]


def renew(model: Any) -> None:
    """Reorder shared weights again that may have been written."""
    for module in model.modules():
        if isinstance(module, ReorderedLinear):
            module.renew()


def is_reordered(model: Any) -> bool:
    """Whether some of a model's linear layers work on reordered weights."""
    return any(isinstance(module, ReorderedLinear) for module in model.modules())


def _uses(model: Any) -> Counter[int]:
    """How many modules have each parameter, by its id."""
    own = (parameter for module in model.modules() for parameter in module.parameters(recurse=False))
    return Counter(map(id, own))


@torch.inference_mode()
def _logits(model: Any) -> torch.Tensor:
    vocabulary = model.config.get_text_config().vocab_size
    ids = torch.arange(PROBE_TOKENS)[None] * 37 % vocabulary
    logits: torch.Tensor = model(input_ids=ids, use_cache=False).logits
    return logits
