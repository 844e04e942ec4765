"""The contract of eviction policies."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Entry:
    """What a policy is told of a stored block; none of it ever changes.

    Attributes:
        key: Name of the block.
        size_bytes: Its size.
        depth: Where its first token lies in its turn, in tokens.
        tokens: Tokens in it.
        tenant: Whose it is.
        seconds: What computing it would take longer than loading it; 0 where nobody knows.
    """

    key: str
    size_bytes: int
    depth: int = 0
    tokens: int = 0
    tenant: str = ""
    seconds: float = 0.0

    @property
    def seconds_per_byte(self) -> float:
        """What a byte of it is worth; where seconds are unknown all bytes are worth the same."""
        return (self.seconds or self.size_bytes * 1e-9) / max(self.size_bytes, 1)


@dataclass(frozen=True)
class Use:
    """Who brought or read a block, and when.

    Attributes:
        at: When, in seconds on the tier's clock.
        session: The conversation, unique across tenants; empty for a stateless call.
    """

    at: float = 0.0
    session: str = ""


NOBODY = Use()


class EvictionPolicy(ABC):
    """Orders the entries of one tier by how dispensable they are.

    A policy keeps books only: it never touches KV, is never told of leases or quotas (the tier skips candidates that
    have to stay) and is called under its tier's lock, so it needs none of its own. It reads no clock: what it has to
    know of time comes with each call, so that a past can be replayed.
    """

    @abstractmethod
    def added(self, entry: Entry, use: Use) -> None:
        """An entry came in. Adding a key again counts as a use."""

    @abstractmethod
    def used(self, key: str, use: Use) -> None:
        """An entry was read. Unknown keys are ignored."""

    @abstractmethod
    def removed(self, key: str) -> None:
        """An entry is gone, for whatever reason. Unknown keys are ignored."""

    @abstractmethod
    def candidates(self, at: float) -> Iterator[str]:
        """All keys, most dispensable first, as things stand at a time. The books must not change while it runs."""

    def expired(self, at: float) -> Iterable[str]:
        """Keys that may not be kept any longer at a time, however much room there is."""
        del at
        return ()
