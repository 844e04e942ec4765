"""Moving keys: rotate cached keys from the position they were computed at to another one."""

from __future__ import annotations

from typing import Any

import torch

from semshare_agents.values import Ints


@torch.inference_mode()
def rotations(module: Any, arguments: tuple[Any, ...], positions: torch.Tensor) -> list[torch.Tensor]:
    """A rotary module's cosines and sines (or complex factors) of `positions`, each `(positions, dims)`."""
    device = next((b.device for b in module.buffers()), torch.device("cpu"))
    probe = torch.zeros(1, 1, 1, device=device, dtype=torch.float32)
    out = module(probe, positions.to(device)[None], *arguments)
    return [part[0] for part in (out if isinstance(out, tuple) else (out,))]


class RotaryTables:
    """Cosines and sines as the model itself computes them.

    A key moves by the rotation of its new position times the inverse rotation of its old one. Taking both from the
    model's own rotary module, at its own precision, makes moved keys equal re-projected ones to the last bits also
    at large positions, and covers every static RoPE variant (default, linear, llama3, yarn, partial rotary).

    Args:
        module: The rotary module.
        arguments: Its positional arguments after hidden states and position ids (a layer type, say).
        device: Where the tables live.
        most: The longest sequence that may be asked for: past it some modules rotate otherwise, and go on so.
    """

    FAR = 64
    """A table is not extended for tokens whose positions are more than so many times their number."""

    def __init__(self, module: Any, arguments: tuple[Any, ...], device: torch.device, most: int):
        self._module = module
        self._arguments = arguments
        self._device = device
        self._most = most
        self._cos = torch.empty(0, 0)
        self._sin = torch.empty(0, 0)
        self._extend(16)

    def _extend(self, positions: int) -> None:
        self._cos, self._sin = self._computed(torch.arange(min(positions, self._most)))

    def _computed(self, where: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        parts = rotations(self._module, self._arguments, where)
        if len(parts) != 2:
            return torch.empty(len(where), 0), torch.empty(len(where), 0)
        cos, sin = (part.to(self._device).float() for part in parts)
        half = cos.shape[-1] // 2
        # attention_scaling (yarn) multiplies both; rotations must not scale.
        scale = (cos[:1, :1].square() + sin[:1, :1].square()).sqrt()
        return cos[:, :half] / scale, sin[:, :half] / scale

    def _of(self, positions: Ints) -> tuple[torch.Tensor, torch.Tensor]:
        highest = int(positions.max(initial=0))
        if highest >= len(self._cos):
            if highest > self.FAR * len(positions):
                return self._computed(torch.as_tensor(positions))
            self._extend(max(highest + 1, 2 * len(self._cos)))
        where = torch.as_tensor(positions, device=self._device)
        return self._cos[where], self._sin[where]

    @property
    def rotary_dim(self) -> int:
        """How many of a head's first dimensions rotate."""
        return int(self._cos.shape[1]) * 2

    def between(self, source: Ints, target: Ints) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosines and sines of the rotation from `source` to `target` positions.

        Args:
            source: Positions the keys were computed at, shape `(tokens,)`.
            target: Positions they move to, shape `(tokens,)`.

        Returns:
            Two tensors `(tokens, rotary_dim / 2)`, float32.
        """
        cs, ss = self._of(source)
        ct, st = self._of(target)
        return ct * cs + st * ss, st * cs - ct * ss


def rotate(keys: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> None:
    """Rotate keys in place (half-split layout: dimension `i` pairs with `i + rotary_dim / 2`).

    Args:
        keys: Keys of some tokens, of any number of layers and heads.
        cos: `(tokens, rotary_dim / 2)`.
        sin: `(tokens, rotary_dim / 2)`.
    """
    half = cos.shape[-1]
    first, second = keys[..., :half], keys[..., half : 2 * half]
    a, b = first.float(), second.float()
    turned = a * cos - b * sin
    second.copy_(b * cos + a * sin)
    first.copy_(turned)


class KeyMover:
    """Moves the keys of all layers of one model.

    Args:
        tables: The model's distinct rotary tables.
        layer_tables: For each layer, the index of its table, -1 for layers without positions.
    """

    def __init__(self, tables: list[RotaryTables], layer_tables: list[int]):
        self.tables = tables
        self.layer_tables = layer_tables
        uniform = len(set(layer_tables)) == 1
        self._groups: list[tuple[int, Any]] = []
        for index in sorted(set(layer_tables)):
            layers = [i for i, t in enumerate(layer_tables) if t == index]
            if index >= 0:
                self._groups.append((index, slice(None) if uniform else layers))

    def rotation(self, source: Ints, target: Ints) -> Rotation:
        """The rotation that moves keys from `source` to `target` positions, each of shape `(tokens,)`."""
        return Rotation([(layers, *self.tables[index].between(source, target)) for index, layers in self._groups])

    def move(self, keys: torch.Tensor, source: Ints, target: Ints) -> None:
        """Rotate keys of all layers in place.

        Args:
            keys: Keys of all layers, as `semshare_agents.kv.layout.keys_of` gives them.
            source: Old positions, shape `(tokens,)`.
            target: New positions, shape `(tokens,)`.
        """
        self.rotation(source, target).apply(keys, slice(None))


class Rotation:
    """Rotations of some tokens' keys, prepared once for all blocks that need a part of them."""

    def __init__(self, groups: list[tuple[Any, torch.Tensor, torch.Tensor]]):
        self._groups = groups

    def apply(self, keys: torch.Tensor, part: slice | torch.Tensor) -> None:
        """Rotate keys in place.

        Args:
            keys: Keys of all layers, as `semshare_agents.kv.layout.keys_of` gives them.
            part: Which of the prepared tokens they are.
        """
        for layers, cos, sin in self._groups:
            if isinstance(layers, slice):
                rotate(keys, cos[part], sin[part])
                continue
            for layer in layers:
                rotate(keys[layer], cos[part], sin[part])
