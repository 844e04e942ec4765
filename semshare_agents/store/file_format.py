"""The file format of a block: safetensors, with what names and proves it in the header.

The header's metadata holds the format version, the packing with its own version, the block's key, the model's
fingerprint and a checksum over names and payload. A file is used only if all of them agree with what was asked for.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
import xxhash
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save

from semshare_agents.errors import CorruptBlockError, DamagedSealError, SealedError, StoreError
from semshare_agents.kv.packing import Packed, packing_of
from semshare_agents.security.encryption import MAGIC, Cipher
from semshare_agents.store.base import BlockInfo

FORMAT = "semshare-kv-3"
SUFFIX = ".safetensors"
HEADER_BYTES = 1024
"""More than the header of a block of one part takes."""
PART_BYTES = 160
"""More than each further part adds to the header."""


def file_bytes(packed: Packed) -> int:
    """Most bytes that a block's file takes."""
    return packed.nbytes + HEADER_BYTES + len(packed.content) + PART_BYTES * (len(packed.parts) - 1)


def encode(info: BlockInfo, packed: Packed) -> bytes:
    """The file content of a block."""
    parts = {name: part.detach().cpu().contiguous() for name, part in packed.parts.items()}
    metadata = {
        "format": FORMAT,
        "packing": packed.packing,
        "packing_version": str(packed.version),
        "shape": ",".join(map(str, packed.shape)),
        "dtype": str(packed.dtype).removeprefix("torch."),
        "key": info.key,
        "fingerprint": info.fingerprint,
        "tokens": str(info.tokens),
        "content": packed.content,
    }
    content: bytes = save(parts, {**metadata, "checksum": _checksum(metadata, parts)})
    return content


def decode(path: Path, info: BlockInfo, cipher: Cipher | None = None) -> Packed:
    """Read a block and prove that it is the one asked for. Its parts are mapped from a file that is not encrypted.

    Raises:
        FileNotFoundError: there is no such file.
        StoreError: it cannot be read, or is encrypted with a key that is not given.
        CorruptBlockError: the file is damaged, truncated, another block's, or of a format or packing that this
            version does not read.
    """
    try:
        metadata, parts = _read(path, info, cipher or Cipher())
    except FileNotFoundError:
        raise
    except OSError as e:
        raise StoreError(f"{path.name} cannot be read: {e.strerror}") from e
    except DamagedSealError as e:
        raise CorruptBlockError(f"{path.name}: {e}") from e
    except SealedError as e:
        raise StoreError(f"{path.name}: {e}") from e
    except (SafetensorError, ValueError, RuntimeError) as e:
        # It may have been removed between its opening and its mapping.
        if not path.exists():
            raise FileNotFoundError(path) from e
        raise CorruptBlockError(f"{path.name} is not a readable block: {e}") from e
    if metadata.get("format") != FORMAT:
        raise CorruptBlockError(f"{path.name} has format {metadata.get('format')!r}, this version reads {FORMAT}")
    if metadata.get("key") != info.key or metadata.get("fingerprint") != info.fingerprint:
        raise CorruptBlockError(f"{path.name} holds another block or model than the registry says")
    if metadata.pop("checksum", "") != _checksum(metadata, parts):
        raise CorruptBlockError(f"{path.name} fails its checksum")
    try:
        return _packed(metadata, parts, info)
    except LookupError as e:
        raise CorruptBlockError(f"{path.name} {e.args[0]}") from e


def _read(path: Path, info: BlockInfo, cipher: Cipher) -> tuple[dict[str, str], dict[str, torch.Tensor]]:
    """A file's metadata and parts, unproved."""
    with path.open("rb") as file:
        sealed = file.read(len(MAGIC)) == MAGIC
        content = MAGIC + file.read() if sealed else b""
    if not sealed:
        with safe_open(path, framework="pt") as f:
            return dict(f.metadata() or {}), {name: f.get_tensor(name) for name in f.keys()}  # noqa: SIM118
    plain = cipher.decrypt(content, place(info))
    header = json.loads(plain[8 : 8 + int.from_bytes(plain[:8], "little")])
    return dict(header.get("__metadata__", {})), load(plain)


def place(info: BlockInfo) -> str:
    """What an encrypted block is bound to."""
    return f"block|{info.key}|{info.fingerprint}|{info.tokens}"


def _packed(metadata: Mapping[str, str], parts: Mapping[str, torch.Tensor], info: BlockInfo) -> Packed:
    """A block from what its checksum has proved.

    Raises:
        LookupError: this version cannot read it, or it has another length than `info` says.
    """
    if metadata.get("tokens") != str(info.tokens):
        raise LookupError(f"has {metadata.get('tokens')} tokens, the registry says {info.tokens}")
    shape = tuple(int(size) for size in metadata["shape"].split(","))
    dtype: torch.dtype = getattr(torch, metadata["dtype"])
    version = int(metadata["packing_version"])
    packed = Packed(metadata["packing"], version, shape, dtype, parts, metadata["content"])
    packing_of(packed)
    return packed


def _checksum(metadata: Mapping[str, str], parts: Mapping[str, torch.Tensor]) -> str:
    digest = xxhash.xxh3_128(json.dumps(sorted(metadata.items())).encode())
    for name in sorted(parts):
        part = parts[name]
        digest.update(f"{name}|{tuple(part.shape)}|{part.dtype}".encode())
        digest.update(memoryview(part.flatten().view(torch.uint8).numpy()))  # type: ignore[arg-type]
    return str(digest.hexdigest())
