"""Encryption at rest: AES-256-GCM of the library `cryptography`, bound to what is encrypted.

A sealed text or file carries the name of its key, so that a key that is not given is told from damage, and is bound to
its place: in another row, column or file it does not open.
"""

from __future__ import annotations

import base64
import secrets
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import blake3
from pydantic import SecretStr

from semshare_agents.errors import ConfigurationError, DamagedSealError, SealedError

MAGIC = b"semseal1"
KEY_BYTES, NAME_BYTES, NONCE_BYTES, TAG_BYTES = 32, 8, 12, 16
OVERHEAD_BYTES = len(MAGIC) + NAME_BYTES + NONCE_BYTES + TAG_BYTES
TEXT_MAGIC = MAGIC.decode()


class _Aead(Protocol):
    def encrypt(self, nonce: bytes, data: bytes, associated_data: bytes | None) -> bytes: ...
    def decrypt(self, nonce: bytes, data: bytes, associated_data: bytes | None) -> bytes: ...


class Cipher:
    """Seals with the first of its keys and opens with all; without keys it leaves everything as it is.

    Args:
        keys: 32 bytes each.

    Raises:
        ConfigurationError: there are keys and the library is not installed.
    """

    def __init__(self, keys: Sequence[bytes] = ()):
        self._ciphers: dict[bytes, _Aead] = {_name(key): _aead(key) for key in keys}
        self.active = bool(keys)

    @property
    def key_names(self) -> list[str]:
        """Names of its keys, hexadecimal; the first seals. A name tells nothing of its key."""
        return [name.hex() for name in self._ciphers]

    def encrypt(self, plain: bytes, place: str) -> bytes:
        """Bytes that open at `place` alone."""
        if not self.active:
            return plain
        name, cipher = next(iter(self._ciphers.items()))
        nonce = secrets.token_bytes(NONCE_BYTES)
        return MAGIC + name + nonce + cipher.encrypt(nonce, plain, place.encode())

    def decrypt(self, stored: bytes, place: str) -> bytes:
        """What was sealed; bytes that are not sealed stay as they are.

        Raises:
            SealedError: the key is not given.
            DamagedSealError: the bytes are damaged, or were sealed for another place.
        """
        if not stored.startswith(MAGIC):
            return stored
        begin, end = len(MAGIC) + NAME_BYTES, len(MAGIC) + NAME_BYTES + NONCE_BYTES
        nonce, body = stored[begin:end], stored[end:]
        cipher = self._ciphers.get(stored[len(MAGIC) : begin])
        if cipher is None:
            raise SealedError("it is encrypted with a key that is not given: add the key to encryption_keys")
        from cryptography.exceptions import InvalidTag

        try:
            return cipher.decrypt(nonce, body, place.encode())
        except (InvalidTag, ValueError) as e:
            raise DamagedSealError("it is damaged, or was encrypted for another place") from e

    def encrypt_text(self, plain: str, place: str) -> str:
        """As `encrypt`, for a column of text."""
        if not self.active:
            return plain
        return TEXT_MAGIC + base64.b64encode(self.encrypt(plain.encode("utf-8", "surrogatepass"), place)).decode()

    def decrypt_text(self, stored: str, place: str) -> str:
        """As `decrypt`, for a column of text; errors too."""
        if not stored.startswith(TEXT_MAGIC):
            return stored
        try:
            sealed = base64.b64decode(stored[len(TEXT_MAGIC) :], validate=True)
        except ValueError as e:
            raise DamagedSealError("it is damaged") from e
        return self.decrypt(sealed, place).decode("utf-8", "surrogatepass")

    def decrypted(self, row: Mapping[Any, Any]) -> dict[str, Any]:
        """A turn's row, which has its id, with the columns opened that `encrypted` seals; errors as in `decrypt`."""
        values = dict(row)
        for column in ("messages", "answer", "report"):
            if column in values:
                values[column] = self.decrypt_text(values[column], _place(column, values["id"]))
        if "tokens" in values:
            values["tokens"] = self.decrypt(values["tokens"], _place("tokens", values["id"]))
        return values

    def encrypted(self, row: Mapping[str, Any], turn_id: int) -> dict[str, Any]:
        """A turn's columns as they are stored: texts and token ids are sealed."""
        return {
            column: self.encrypt(value, _place(column, turn_id))
            if isinstance(value, bytes)
            else self.encrypt_text(value, _place(column, turn_id))
            for column, value in row.items()
        }


def key_name(stored: bytes) -> str:
    """The name, hexadecimal, of the key with which bytes are sealed, told by their beginning; empty for plain bytes."""
    return stored[len(MAGIC) :][:NAME_BYTES].hex() if stored.startswith(MAGIC) else ""


def make_cipher(given: SecretStr | None) -> Cipher:
    """The cipher of the setting `encryption_keys`.

    Raises:
        ConfigurationError: a key is malformed, or the library is not installed.
    """
    if given is None:
        return Cipher()
    keys = []
    for word in given.get_secret_value().split(","):
        try:
            keys.append(bytes.fromhex(word.strip()))
        except ValueError:
            keys.append(b"")
    if any(len(key) != KEY_BYTES for key in keys):
        raise ConfigurationError(
            f"encryption_keys: each key is {2 * KEY_BYTES} hexadecimal digits, as `openssl rand -hex {KEY_BYTES}` "
            "makes them; several are separated by commas"
        )
    return Cipher(keys)


def _place(column: str, turn_id: int) -> str:
    return f"turns|{column}|{turn_id}"


def _name(key: bytes) -> bytes:
    return blake3.blake3(key, derive_key_context="semshare-agents key name 1").digest(NAME_BYTES)


def _aead(key: bytes) -> _Aead:
    try:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    except ModuleNotFoundError as e:
        raise ConfigurationError("encryption needs `pip install 'semshare-agents[encryption]'`") from e
    return AESGCM(key)
