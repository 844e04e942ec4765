"""The fingerprint that decides whether stored KV may be used with a model at all, as the model is at this moment."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import suppress
from threading import Lock
from typing import Any
from weakref import ref

import blake3
import torch

from semshare_agents.errors import UnsupportedModelError
from semshare_agents.model.reordered import renew

FORMAT = 2
SAMPLED = 16
"""Elements of each tensor that every look reads."""
SWITCHES = ("adapter", "lora", "merged", "scaling", "active", "enable", "disable")
"""Words in the names of module attributes that may switch a part of a model on and off, or weigh it."""
UNREADABLE = (NotImplementedError, RuntimeError, TypeError, AttributeError, ValueError)

Look = tuple[Any, ...]


class Fingerprint:
    """A digest of everything that shapes a model's KV.

    Covers weights, adapters that are active, tokenizer, chat template, dtype, configuration with RoPE parameters, and
    quantisation. Two models with equal fingerprints compute equal KV from equal messages.

    Adapters are switched, merged and loaded, and weights are trained, while a model serves turns. Therefore `current`
    looks each time: at which tensors there are, where they lie, how often they were written in place, some of their
    elements (what is written through `.data` is counted nowhere), the norms of active adapters, and the switches of all
    modules. Only tensors that changed are read again.

    Args:
        model: A transformers model.
        tokenizer: Its tokenizer.
    """

    def __init__(self, model: Any, tokenizer: Any):
        self._model = model
        self._tokenizer = tokenizer
        self._lock = Lock()
        self._serials: dict[int, tuple[ref[torch.Tensor], int]] = {}
        self._digests: dict[int, tuple[Look, bytes]] = {}
        self._last: tuple[Look, str] | None = None
        self._made = 0
        self._matching: dict[str, bool] = {}

    def current(self) -> str:
        """The fingerprint of the model as it is now, 64 hexadecimal digits.

        Raises:
            UnsupportedModelError: the weights cannot be read.
        """
        with self._lock:
            modules = dict(self._model.named_modules())
            switches, adapters = self._switches(modules), list(_adapters(modules.values()))
            idle = {id(tensor) for active, tensor in adapters if not active}
            state = sorted(self._model.state_dict(keep_vars=True).items())
            tensors = {n: t for n, t in state if isinstance(t, torch.Tensor) and id(t) not in idle}
            looks = self._looks(tensors, _norms([tensor for active, tensor in adapters if active]))
            look: Look = (json.dumps(switches, sort_keys=True), tuple(looks.items()))
            if self._last is None or self._last[0] != look:
                renew(self._model)
                self._last = look, self._digest(tensors, looks, switches)
            return self._last[1]

    def _digest(self, tensors: dict[str, torch.Tensor], looks: dict[str, Look], switches: dict[str, Any]) -> str:
        whole = blake3.blake3()
        description = {**_description(self._model, self._tokenizer), "switches": switches}
        whole.update(json.dumps(description, sort_keys=True, default=str).encode())
        for name, tensor in tensors.items():
            look = looks[name]
            known = self._digests.get(look[0])
            if known is None or known[0] != look:
                known = self._digests[look[0]] = look, _content(name, tensor)
            whole.update(name.encode() + b"\0" + known[1])
        present = {look[0] for look in looks.values()}
        self._digests = {serial: digest for serial, digest in self._digests.items() if serial in present}
        return whole.hexdigest()

    def _looks(self, tensors: dict[str, torch.Tensor], norms: dict[int, float]) -> dict[str, Look]:
        samples = _samples(tensors)
        looks: dict[str, Look] = {}
        for name, tensor in tensors.items():
            written = -1 if tensor.is_inference() else tensor._version
            looks[name] = (self._serial(tensor), _place(tensor), written, samples.get(name), norms.get(id(tensor)))
        return looks

    def _serial(self, tensor: torch.Tensor) -> int:
        """A number of this very tensor: addresses are used again."""
        known = self._serials.get(id(tensor))
        if known is None or known[0]() is not tensor:
            self._made += 1
            known = self._serials[id(tensor)] = ref(tensor), self._made
        return known[1]

    def _switches(self, modules: dict[str, Any]) -> dict[str, Any]:
        """Attributes of modules that say what of them takes part."""
        found: dict[str, Any] = {}
        for path, module in modules.items():
            for name, value in vars(module).items():
                matches = self._matching.get(name)
                if matches is None:
                    matches = self._matching[name] = any(word in name for word in SWITCHES)
                if matches and _plain(value):
                    found[f"{path}.{name}"] = _of_active(module, value)
        return found


def _of_active(module: Any, value: Any) -> Any:
    """A switch as it is for the adapters in use: PEFT keeps values of all by name, and single names or lists."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict) and hasattr(type(module), "adapter_layer_names"):
        used = {*module.active_adapters, *module.merged_adapters}
        return {name: inner for name, inner in value.items() if name in used}
    return value


def _adapters(modules: Iterable[Any]) -> Iterator[tuple[bool, torch.Tensor]]:
    """Whether it is active, and each tensor, of the adapters that PEFT's layers hold."""
    for module in modules:
        kinds: tuple[str, ...] = getattr(type(module), "adapter_layer_names", ())
        if not kinds:
            continue
        active = () if module.disable_adapters else module.active_adapters
        for kind in kinds:
            held: Any = getattr(module, kind, None)
            for name, part in held.items() if hasattr(held, "items") else ():
                for tensor in part.state_dict(keep_vars=True).values() if hasattr(part, "state_dict") else (part,):
                    yield name in active, tensor


@torch.no_grad()
def _norms(tensors: list[torch.Tensor]) -> dict[int, float]:
    """The norm of each tensor, by its id."""
    if not tensors:
        return {}
    norms = torch.stack([torch.linalg.vector_norm(t.detach(), dtype=torch.float32).cpu() for t in tensors])
    return dict(zip(map(id, tensors), norms.tolist(), strict=True))


def fingerprint(model: Any, tokenizer: Any) -> str:
    """The fingerprint of a model as it is now; see `Fingerprint`."""
    return Fingerprint(model, tokenizer).current()


def _leaves(tensor: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
    """The plain tensors that a tensor is made of, with how: quantisers wrap several in a class of their own."""
    if hasattr(tensor, "__tensor_flatten__"):
        names, how = tensor.__tensor_flatten__()
        for name in names:
            for inner, leaf in _leaves(getattr(tensor, name)):
                yield f"{type(tensor).__name__}.{name}|{how}|{inner}", leaf
    else:
        yield "", tensor


def _content(name: str, tensor: torch.Tensor) -> bytes:
    """A digest of all elements of a tensor.

    Raises:
        UnsupportedModelError: they cannot be read.
    """
    digest = blake3.blake3(max_threads=blake3.blake3.AUTO)
    try:
        plain = tensor.detach()
        # A weight in another order is the same weight.
        for how, leaf in _leaves(plain if plain.layout is torch.strided else plain.to_dense()):
            digest.update(f"{how}{tuple(leaf.shape)}{leaf.dtype}".encode())
            data = leaf.cpu().contiguous().flatten().view(torch.uint8).numpy()
            digest.update(memoryview(data))  # type: ignore[arg-type]
    except UNREADABLE as e:
        raise UnsupportedModelError(
            f"the weights {name!r}, a {type(tensor).__name__}, cannot be read byte by byte ({type(e).__name__}: {e}): "
            "their KV could not be told from that of other weights. Use another quantiser, or none"
        ) from e
    return digest.digest()


def _place(tensor: torch.Tensor) -> int:
    with suppress(*UNREADABLE):
        return tensor.data_ptr()
    return 0


@torch.no_grad()
def _samples(tensors: dict[str, torch.Tensor]) -> dict[str, bytes]:
    """Some elements of each tensor as bytes, gathered with one copy for each type; none where that is not possible."""
    groups: dict[tuple[torch.device, torch.dtype], list[tuple[str, torch.Tensor]]] = {}
    for name, tensor in tensors.items():
        if tensor.layout is not torch.strided:
            continue  # opaque: nobody writes into it but by methods, which count
        with suppress(*UNREADABLE):
            for _, leaf in _leaves(tensor.detach()):
                if leaf.numel():
                    groups.setdefault((leaf.device, leaf.dtype), []).append((name, _sample(leaf)))
    found: dict[str, bytes] = {}
    for parts in groups.values():
        with suppress(*UNREADABLE):
            data = torch.cat([part for _, part in parts]).cpu().view(torch.uint8).numpy().tobytes()
            at = 0
            for name, part in parts:
                size = part.numel() * part.element_size()
                found[name] = found.get(name, b"") + data[at : at + size]
                at += size
    return found


def _sample(leaf: torch.Tensor) -> torch.Tensor:
    """Elements spread over a tensor, without a copy of it."""
    count = min(SAMPLED, leaf.numel())
    step = (leaf.numel() - 1) // max(1, count - 1)
    if leaf.is_contiguous():
        return leaf.view(-1)[:: max(1, step)][:count]
    return leaf[tuple(slice(None, 2) for _ in leaf.shape)].reshape(-1)[:count]


def _plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(isinstance(key, str) and _plain(inner) for key, inner in value.items())
    if isinstance(value, list | tuple):
        return all(map(_plain, value))
    return value is None or isinstance(value, bool | int | float | str)


def _description(model: Any, tokenizer: Any) -> dict[str, Any]:
    config = model.config.to_dict()
    for passing in ("transformers_version", "_name_or_path", "_attn_implementation", "_model_name_or_path"):
        config.pop(passing, None)
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return {
        "format": FORMAT,
        "config": config,
        "dtype": str(model.dtype),
        "quantisation": str(getattr(model, "quantization_method", None)),
        "tokenizer": backend.to_str() if backend is not None else sorted(tokenizer.get_vocab().items()),
        "chat_template": tokenizer.chat_template,
    }
