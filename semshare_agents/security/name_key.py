"""The key that keys a memory's names: a random file in `home`, or a setting that several hosts share.

Names are digests of text. Without a secret in them, whoever reads the database could make them of any text he guesses,
and see whether two tenants have it.
"""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from pathlib import Path

import blake3
from pydantic import SecretStr

from semshare_agents.errors import ConfigurationError, StoreNotWritableError
from semshare_agents.security import files as private

NAMES_FILE = "names.key"
KEY_BYTES = 32


def names_key(home: Path, given: SecretStr | None) -> bytes:
    """The key of a memory's names, 32 bytes; made where there is none.

    Args:
        home: Where it is kept, in a file that only its owner can read.
        given: The setting; wins over the file.

    Raises:
        ConfigurationError: the file holds no key.
        StoreNotWritableError: it cannot be made or read.
    """
    if given is not None:
        # A text of any length; whoever shares it has the same key.
        return blake3.blake3(given.get_secret_value().encode(), derive_key_context="semshare-agents names 1").digest()
    path = home / NAMES_FILE
    try:
        if not path.exists():
            _make(path)
        key = bytes.fromhex(path.read_text().strip())
    except OSError as e:
        raise StoreNotWritableError(f"{path} cannot be made or read ({e.strerror}): give names_key") from e
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise ConfigurationError(
            f"{path} is not a key of {2 * KEY_BYTES} hexadecimal digits: bring it back from a copy, or delete it, and "
            "nothing stored so far is found any more"
        )
    return key


def _make(path: Path) -> None:
    """Whole or not at all, and of several processes that start together one wins."""
    private.folder(path.parent)
    aside = path.with_suffix(f".{secrets.token_hex(8)}.tmp")
    with os.fdopen(private.opened(aside, os.O_WRONLY | os.O_EXCL), "w") as file:
        file.write(secrets.token_hex(KEY_BYTES) + "\n")
        file.flush()
        os.fsync(file.fileno())
    try:
        with suppress(FileExistsError):
            os.link(aside, path)
    finally:
        aside.unlink()
