"""The contract of eviction policies."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Entry:
    """What a policy is told of a stored block.

    Attributes:
        key: Name of the block.
        size_bytes: Its size.
        depth: How far into its turn the block lies, in tokens; heads are worth more than tails.
    """

    key: str
    size_bytes: int
    depth: int = 0


class EvictionPolicy(ABC):
    """Orders the entries of one tier by how dispensable they are.

    A policy keeps books only: it never touches KV, is never told of leases (the tier skips leased candidates) and is
    called under its tier's lock, so it needs none of its own.
    """

    @abstractmethod
    def added(self, entry: Entry) -> None:
        """An entry came in. Adding a key again counts as a use."""

    @abstractmethod
    def used(self, key: str) -> None:
        """An entry was read. Unknown keys are ignored."""

    @abstractmethod
    def removed(self, key: str) -> None:
        """An entry is gone, for whatever reason. Unknown keys are ignored."""

    @abstractmethod
    def candidates(self) -> Iterator[str]:
        """All keys, most dispensable first. The books must not change while it runs."""
