"""The file format of a block: safetensors, with what names and proves it in the header.

The header's metadata holds the format version, the block's key, the model's fingerprint and a checksum over names and
payload. A file is used only if all of them agree with what was asked for.
"""

from __future__ import annotations

from pathlib import Path

import torch
import xxhash
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from semshare_agents.errors import CorruptBlockError, StoreError
from semshare_agents.store.base import BlockInfo

FORMAT = "semshare-kv-1"
SUFFIX = ".safetensors"
TENSOR = "kv"
HEADER_BYTES = 1024
"""More than the header of any block takes."""


def encode(info: BlockInfo, kv: torch.Tensor) -> bytes:
    """The file content of a block `(layers, 2, kv_heads, tokens, head_dim)`."""
    payload = kv.detach().cpu().contiguous()
    metadata = {
        "format": FORMAT,
        "key": info.key,
        "fingerprint": info.fingerprint,
        "tokens": str(info.tokens),
        "checksum": _checksum(info, payload),
    }
    content: bytes = save({TENSOR: payload}, metadata)
    return content


def decode(path: Path, info: BlockInfo) -> torch.Tensor:
    """Read a block and prove that it is the one asked for. The tensor is mapped from the file, not copied.

    Raises:
        FileNotFoundError: there is no such file.
        StoreError: it cannot be read.
        CorruptBlockError: the file is damaged, truncated, of another format, or another block's.
    """
    try:
        with safe_open(path, framework="pt") as f:
            metadata = f.metadata() or {}
            kv: torch.Tensor = f.get_tensor(TENSOR)
    except FileNotFoundError:
        raise
    except OSError as e:
        raise StoreError(f"{path.name} cannot be read: {e.strerror}") from e
    except (SafetensorError, ValueError, RuntimeError) as e:
        raise CorruptBlockError(f"{path.name} is not a readable block: {e}") from e
    if metadata.get("format") != FORMAT:
        raise CorruptBlockError(f"{path.name} has format {metadata.get('format')!r}, this version reads {FORMAT}")
    named = BlockInfo(
        metadata.get("key", ""), metadata.get("fingerprint", ""), int(kv.shape[3]) if kv.ndim == 5 else -1
    )
    if named != info or metadata.get("tokens") != str(info.tokens):
        raise CorruptBlockError(f"{path.name} holds another block, model or length than the registry says")
    if metadata.get("checksum") != _checksum(info, kv):
        raise CorruptBlockError(f"{path.name} fails its checksum")
    return kv


def _checksum(info: BlockInfo, kv: torch.Tensor) -> str:
    digest = xxhash.xxh3_128(f"{FORMAT}|{info.key}|{info.fingerprint}|{tuple(kv.shape)}|{kv.dtype}".encode())
    digest.update(memoryview(kv.flatten().view(torch.uint8).numpy()))  # type: ignore[arg-type]
    return str(digest.hexdigest())
