"""What a block's KV was computed of, kept with the KV itself.

Rows of a database can be damaged or changed like any file. KV says of itself whose it is, of which tokens at which
place after which text, and how many of them are exact; rows that say otherwise are counted misses.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import blake3
import numpy as np

from semshare_agents.values import Ints, Scope

NAME_BYTES = 16


@dataclass(frozen=True)
class Content:
    """What a block is, or what a reader takes it for.

    Attributes:
        owner: Digest of the scope.
        start: Position of its first token.
        token_ids: Its tokens.
        exact: How many of its first tokens have the KV of a cold run.
        context: Digest of the scope and the tokens before it; counts where KV is taken as exact.
    """

    owner: str
    start: int
    token_ids: tuple[int, ...]
    exact: int
    context: str

    def text(self) -> str:
        """As a line that `mismatch` reads."""
        return json.dumps([self.owner, self.start, self.exact, self.context, *self.token_ids], separators=(",", ":"))

    def mismatch(self, kept: str) -> str:
        """Why KV with the line `kept` may not be taken for this; empty where it may."""
        owner, start, exact, context, *tokens = json.loads(kept) if kept else ("", -1, 0, "")
        if owner != self.owner:
            return "belongs to another tenant or model than the registry says"
        if start != self.start or tuple(tokens[: len(self.token_ids)]) != self.token_ids:
            return "was computed of other tokens than the registry says"
        if self.exact and (exact < self.exact or context != self.context):
            return "is not exact where the registry says so"
        return ""


def describe(scope: Scope, tokens: Ints, spans: Sequence[tuple[int, int]], exact_tokens: int) -> list[Content]:
    """Contents of parts of a turn.

    Args:
        scope: Tenant and model.
        tokens: The turn's token ids, shape `(tokens,)`.
        spans: Start and length of each part, ascending.
        exact_tokens: Length of the prefix of `tokens` whose KV is exact.
    """
    owner = blake3.blake3(b"owner" + scope.hash_key).hexdigest(length=NAME_BYTES)
    before, done = blake3.blake3(b"context" + scope.hash_key), 0
    raw = np.ascontiguousarray(tokens, dtype="<i4")
    found: list[Content] = []
    for start, length in spans:
        before.update(raw[done:start].tobytes())
        done = max(done, start)
        ids = tuple(raw[start : start + length].tolist())
        exact = max(0, min(exact_tokens - start, length))
        found.append(Content(owner, start, ids, exact, before.hexdigest(length=NAME_BYTES)))
    return found
