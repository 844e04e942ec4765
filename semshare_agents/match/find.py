"""Find donors: by chain names, then by content names, then by signatures."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from semshare_agents.concurrency import threads
from semshare_agents.match import hashes
from semshare_agents.match.signature import Signer
from semshare_agents.match.spans import equal_ahead
from semshare_agents.registry import Registry
from semshare_agents.values import Donor, Hit, Ints, Reuse, Scope

MOST_DONORS = 8
COMPARED_CANDIDATES = 48
SIMILAR_CANDIDATES = 6
LEAST_SHARED_BANDS = 2
LEAST_OF_BEST = 1 / 8
"""Turns that share less than this part of the bands that the best one shares are as like as any two texts."""


@dataclass(frozen=True)
class Found:
    """What the names of a prompt found.

    Attributes:
        exact: The donor of the exact prefix, None without one.
        exact_tokens: Length of the prefix whose KV is stored and exact.
        donors: Donors of moved text.
        hits: Where the prompt meets them.
    """

    exact: Donor | None = None
    exact_tokens: int = 0
    donors: tuple[Donor, ...] = ()
    hits: tuple[Hit, ...] = ()


async def find(
    registry: Registry, scope: Scope, prompt: Ints, block_tokens: int, reuse: Reuse, least_tokens: int
) -> Found:
    """Donors that have some of the prompt word for word.

    Args:
        registry: Where to look.
        scope: Tenant and model; never left.
        prompt: Token ids, shape `(tokens,)`.
        block_tokens: Size of a stored block.
        reuse: What is allowed.
        least_tokens: Moved spans shorter than this are not looked for.
    """
    if not reuse.allows(Reuse.EXACT):
        return Found()
    prefixes = await _prefix_donors(registry, scope, prompt, block_tokens)
    exact, exact_tokens = await threads.work(_longest_exact, prompt, prefixes)
    if not reuse.allows(Reuse.MOVED) or len(prompt) - exact_tokens < least_tokens:
        return Found(exact, exact_tokens)
    hits = await _content_hits(registry, scope, prompt, exact_tokens, block_tokens)
    counts = Counter(hit.turn_id for hit in hits)
    wanted = [turn for turn, _ in sorted(counts.items(), key=lambda item: (-item[1], -item[0]))[:MOST_DONORS]]
    known = {d.turn_id: d for d in prefixes}
    fetched = await registry.donors(scope, [i for i in wanted if i not in known])
    donors = (*prefixes, *fetched)
    # A donor that agrees past the exact prefix goes on as moved text at its own place.
    ahead = await threads.work(lambda: [equal_ahead(prompt, d.tokens) for d in donors])
    hits += [
        Hit(exact_tokens, d.turn_id, exact_tokens)
        for d, equal in zip(donors, ahead, strict=True)
        if equal >= exact_tokens + least_tokens
    ]
    return Found(exact, exact_tokens, donors, tuple(hits))


async def _prefix_donors(registry: Registry, scope: Scope, prompt: Ints, block_tokens: int) -> list[Donor]:
    """Turns that may begin as the prompt does: those that share its chain furthest, and those that branch off there."""
    blocks = await threads.work(hashes.hash_blocks, scope, prompt, block_tokens, len(prompt))
    stored = await registry.find_chain(scope, [b.prefix.hex() for b in blocks])
    shared = 0
    while shared < len(blocks) and blocks[shared].prefix.hex() in stored:
        shared += 1
    turn_ids = [stored[blocks[shared - 1].prefix.hex()][0]] if shared else []
    if shared < len(blocks):
        follows = blocks[shared]
        branch = hashes.partial_block_hash(follows.parent, prompt[follows.start :])
        if branch is not None:
            turn_ids += await registry.find_branch(scope, branch.hex())
    return await registry.donors(scope, list(dict.fromkeys(turn_ids)))


def _longest_exact(prompt: Ints, donors: list[Donor]) -> tuple[Donor | None, int]:
    best: tuple[Donor | None, int] = (None, 0)
    for donor in donors:
        missing = np.flatnonzero(~donor.stored())
        reach = int(missing[0]) if len(missing) else len(donor.tokens)
        length = min(equal_ahead(prompt, donor.tokens), donor.exact_tokens, reach)
        if length > best[1]:
            best = (donor, length)
    return best


async def _content_hits(registry: Registry, scope: Scope, prompt: Ints, begin: int, block_tokens: int) -> list[Hit]:
    windows = await threads.work(_windows, scope, prompt, begin, block_tokens)
    return await registry.find_contents(scope, windows)


def _windows(scope: Scope, prompt: Ints, begin: int, block_tokens: int) -> dict[int, list[int]]:
    """Where each content name stands in a prompt from `begin` on."""
    windows: dict[int, list[int]] = {}
    for at, value in enumerate(hashes.rolling(scope, prompt[begin:], block_tokens).tolist(), start=begin):
        windows.setdefault(value, []).append(at)
    return windows


async def find_similar(registry: Registry, scope: Scope, signer: Signer, unmatched: Ints) -> list[Donor]:
    """Donors that say much the same as the unmatched part of a prompt, likeliest first.

    Args:
        registry: Where to look.
        scope: Tenant and model; never left.
        signer: The scope's signatures.
        unmatched: Token ids without a match, shape `(tokens,)`.
    """
    values = await threads.work(lambda: np.unique(signer.bands(unmatched)))
    ranked = await registry.find_similar(scope, values.tolist(), COMPARED_CANDIDATES)
    least = max([LEAST_SHARED_BANDS, *(shared * LEAST_OF_BEST for _, shared in ranked[:1])])
    texts = await registry.tokens(scope, [turn for turn, shared in ranked if shared >= least])
    if not texts:
        return []
    similarity = await threads.work(signer.similarity, unmatched, list(texts.values()))
    order = np.argsort(-similarity, kind="stable")[:SIMILAR_CANDIDATES]
    ids = list(texts)
    return await registry.donors(scope, [ids[i] for i in order])
