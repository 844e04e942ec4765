"""The fingerprint that decides whether stored KV may be used with a model at all."""

from __future__ import annotations

import json
from typing import Any

import blake3
import torch

FORMAT = 1


def fingerprint(model: Any, tokenizer: Any) -> str:
    """A digest of everything that shapes a model's KV.

    Covers weights (adapters are part of the modules), tokenizer, chat template, dtype, configuration with RoPE
    parameters, and quantisation. Two models with equal fingerprints compute equal KV from equal messages.

    Args:
        model: A transformers model.
        tokenizer: Its tokenizer.

    Returns:
        64 hexadecimal digits.
    """
    digest = blake3.blake3(max_threads=blake3.blake3.AUTO)
    digest.update(json.dumps(_description(model, tokenizer), sort_keys=True, default=str).encode())
    for name, tensor in sorted(model.state_dict(keep_vars=True).items()):
        if not isinstance(tensor, torch.Tensor):
            continue
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        data = tensor.detach().cpu().contiguous()
        digest.update(memoryview(data.flatten().view(torch.uint8).numpy()))  # type: ignore[arg-type]
    return digest.hexdigest()


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
        "adapters": sorted(getattr(model, "peft_config", {}) or {}),
        "tokenizer": backend.to_str() if backend is not None else sorted(tokenizer.get_vocab().items()),
        "chat_template": tokenizer.chat_template,
    }
