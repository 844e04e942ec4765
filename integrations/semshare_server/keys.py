"""API keys, each bound to a tenant; only their digests are kept."""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Mapping
from pathlib import Path

from semshare_agents.errors import ConfigurationError
from semshare_agents.security import files as private
from semshare_agents.settings import ServerSettings


def digest(key: str) -> str:
    """SHA-256 of a key; keys are random, so that a slow digest would protect nothing."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


class Keyring:
    """Who may call.

    Args:
        tenants: Tenant by key digest; empty for a server without keys.
    """

    def __init__(self, tenants: Mapping[str, str]):
        self._tenants = dict(tenants)

    def __bool__(self) -> bool:
        return bool(self._tenants)

    def tenant(self, key: str) -> str | None:
        """Whose key it is; None for nobody's. Digests are looked up, so timing tells nothing of the key."""
        return self._tenants.get(digest(key))

    @classmethod
    def of(cls, settings: ServerSettings) -> Keyring:
        """The keys of the settings' file and environment.

        Raises:
            ConfigurationError: a line or an entry is malformed, or the file cannot be read.
        """
        tenants: dict[str, str] = {}
        if settings.keys is not None:
            for entry in filter(None, (e.strip() for e in settings.keys.get_secret_value().split(","))):
                tenant, given, key = entry.partition("=")
                if not (tenant and given and key):
                    raise ConfigurationError("keys: each entry is tenant=key, entries are separated by commas")
                tenants[digest(key)] = tenant
        if settings.keys_file is not None:
            tenants |= _read(settings.keys_file)
        return cls(tenants)


def _read(path: Path) -> dict[str, str]:
    try:
        lines = path.read_text().splitlines()
    except OSError as e:
        raise ConfigurationError(f"keys_file cannot be read: {e}") from e
    tenants: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        found, _, tenant = line.strip().partition(" ")
        if len(found) != 64 or set(found) - set("0123456789abcdef") or not tenant.strip():
            raise ConfigurationError(f"{path}, line {number}: a line is a SHA-256 digest and a tenant's name")
        tenants[found] = tenant.strip()
    if not tenants:
        raise ConfigurationError(f"{path} holds no key: `semshare keys add TENANT --file {path}` makes one")
    return tenants


def add_key(path: Path, tenant: str) -> str:
    """Make a key, keep its digest in a file that only its owner can read, and return it: nothing else knows it."""
    if not tenant.strip() or "\n" in tenant or len(tenant) > 200:
        raise ConfigurationError("a tenant's name has 1 to 200 characters on one line")
    key = "sk-semshare-" + secrets.token_urlsafe(32)
    try:
        private.folder(path.parent)
        with os.fdopen(private.opened(path, os.O_WRONLY | os.O_APPEND), "a") as file:
            file.write(f"{digest(key)} {tenant.strip()}\n")
    except OSError as e:
        raise ConfigurationError(f"the key cannot be kept: {e}") from e
    return key


def list_keys(path: Path) -> list[tuple[str, str]]:
    """Digest and tenant of each key of a file, in its order.

    Raises:
        ConfigurationError: the file cannot be read, holds no key or has a malformed line.
    """
    return list(_read(path).items())


def remove_key(path: Path, beginning: str) -> str:
    """Take the key whose digest begins so out of a file; returns whose it was. A running server still knows it.

    Raises:
        ConfigurationError: no key or several begin so, or the file cannot be read or written.
    """
    found = [(name, tenant) for name, tenant in list_keys(path) if beginning and name.startswith(beginning)]
    if len(found) != 1:
        raise ConfigurationError(
            f"{len(found)} keys of {path} have a digest that begins with {beginning!r}: `semshare keys list` shows them"
        )
    ((name, tenant),) = found
    try:
        kept = [line for line in path.read_text().splitlines() if not line.startswith(name)]
        private.write(path, "".join(f"{line}\n" for line in kept))
    except OSError as e:
        raise ConfigurationError(f"the key cannot be removed: {e}") from e
    return tenant
