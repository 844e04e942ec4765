"""What the memory holds and what of it serves a prompt: scopes, donors, alignments."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from semshare_agents.values.arrays import Floats, Ints
from semshare_agents.values.reason import Reason


class Kind(IntEnum):
    """Where the KV of one prompt token comes from, from strictest to loosest."""

    COMPUTED = 0
    EXACT = 1
    MOVED = 2
    SEMANTIC = 3


@dataclass(frozen=True)
class Scope:
    """What a look-up may never leave: one tenant's KV of one model.

    Attributes:
        id: The scope's row in the registry.
        tenant: Tenant name.
        fingerprint: Fingerprint of the model (`semshare_agents.model.fingerprint`).
        hash_key: Key of the scope's names, so that names of different scopes never agree.
        reads: Ids of all scopes that look-ups may find, this one among them; more than one in a pool.
        forgets: The newest act of forgetting when the scope was asked for.
    """

    id: int
    tenant: str
    fingerprint: str
    hash_key: bytes
    reads: tuple[int, ...] = ()
    forgets: int = 0


@dataclass(frozen=True)
class BlockRef:
    """A stored block, as part of a donor.

    Attributes:
        key: Name of the KV in the store; never used twice.
        start: Position of its first token in the donor.
        length: Tokens of it that the donor uses.
        stored_tokens: Tokens it holds; more than `length` where a longer block took the place of a short one.
    """

    key: str
    start: int
    length: int
    stored_tokens: int


@dataclass(frozen=True)
class Donor:
    """A past turn whose KV may serve a prompt.

    Attributes:
        turn_id: The turn in the registry.
        tokens: Token ids whose KV is stored, shape `(tokens,)`.
        blocks: Stored blocks, ascending; gaps are evicted blocks.
        exact_tokens: Length of the prefix whose KV equals a cold run's.
        depth: Approximate turns between this one and a cold run.
        similarity: Similarity to the prompt; 1.0 for donors found by equal text.
    """

    turn_id: int
    tokens: Ints
    blocks: tuple[BlockRef, ...]
    exact_tokens: int
    depth: int = 0
    similarity: float = 1.0

    def stored(self) -> NDArray[np.bool_]:
        """Which tokens still have stored KV, shape `(tokens,)`."""
        mask = np.zeros(len(self.tokens), dtype=np.bool_)
        for block in self.blocks:
            mask[block.start : block.start + block.length] = True
        return mask


@dataclass(frozen=True)
class Alignment:
    """For every prompt token: kind, donor and source position.

    Attributes:
        kind: `Kind` of each token, shape `(tokens,)`, uint8.
        donor: Index into `donors`, -1 where there is none, shape `(tokens,)`.
        source: Position in the donor, -1 where there is none, shape `(tokens,)`.
        distance: 0 for equal tokens; for semantic matches in (0, 1], larger is worse, shape `(tokens,)`.
        donors: The donors.
        similarity: Similarity of the semantic donor, 0.0 without one.
        invalidated: Matched positions whose KV may know another fact than the prompt; always computed, ascending.
        refused: Why the loosest matches asked for were not found, given up or lost; None otherwise.
        asked: What each token's passage has in common with the question, shape `(tokens,)`; empty where nobody looked.
    """

    kind: NDArray[np.uint8]
    donor: Ints
    source: Ints
    distance: Floats
    donors: tuple[Donor, ...] = ()
    similarity: float = 0.0
    invalidated: Ints = field(default_factory=lambda: np.zeros(0, np.int64))
    refused: Reason | None = None
    asked: Floats = field(default_factory=lambda: np.zeros(0, np.float32))

    @classmethod
    def empty(cls, tokens: int) -> Alignment:
        """An alignment in which every token is to be computed."""
        return cls(
            np.zeros(tokens, np.uint8),
            np.full(tokens, -1, np.int64),
            np.full(tokens, -1, np.int64),
            np.zeros(tokens, np.float32),
        )

    def __len__(self) -> int:
        return len(self.kind)

    def runs(self) -> list[tuple[int, int]]:
        """Maximal `(start, end)` ranges of one kind other than computed, one donor and one offset."""
        if not len(self):
            return []
        delta = np.where(self.kind == Kind.COMPUTED, 0, self.source - np.arange(len(self)))
        cut = (np.diff(self.kind) != 0) | (np.diff(self.donor) != 0) | (np.diff(delta) != 0)
        edges = np.concatenate(([0], np.flatnonzero(cut) + 1, [len(self)]))
        return [(int(a), int(b)) for a, b in pairwise(edges) if self.kind[a] != Kind.COMPUTED]


@dataclass(frozen=True, order=True)
class Hit:
    """A window of the prompt that equals a stored block.

    Attributes:
        at: Position in the prompt.
        turn_id: Donor turn.
        source: Position in the donor.
    """

    at: int
    turn_id: int
    source: int
