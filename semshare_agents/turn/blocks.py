"""A turn's blocks: their names, and which of them stored turns have already."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from uuid import uuid4

import numpy as np

from semshare_agents.concurrency import threads
from semshare_agents.match import hashes
from semshare_agents.match.hashes import HashedBlock
from semshare_agents.match.signature import Signer
from semshare_agents.match.spans import equal_ahead
from semshare_agents.model.run import RowRun
from semshare_agents.registry import NewBlock, NewTurn, Registry
from semshare_agents.reuse.kinds import unchanged
from semshare_agents.turn.state import Prefilled
from semshare_agents.values import Donor, Ints, Kind, Scope


@dataclass(frozen=True)
class TurnBlocks:
    """What a turn's KV is stored as.

    Attributes:
        tokens: Tokens whose KV the run had, shape `(tokens,)`.
        exact_tokens: Of these, the prefix that equals a cold run's.
        blocks: Their blocks.
        replaced: Pairs of keys `(short block, longer block that takes its place)`.
    """

    tokens: Ints
    exact_tokens: int
    blocks: tuple[NewBlock, ...] = ()
    replaced: tuple[tuple[str, str], ...] = ()

    @property
    def repairable(self) -> bool:
        """Whether some of the KV is approximate and all of it is kept."""
        return self.exact_tokens < len(self.tokens) == sum(block.length for block in self.blocks)


NO_BLOCKS = TurnBlocks(np.zeros(0, np.int64), 0)
"""Of a turn whose text alone is kept."""


async def blocks_of(registry: Registry, prefilled: Prefilled, run: RowRun, block_tokens: int) -> TurnBlocks:
    """Name a turn's blocks; those that a donor or an equal turn has already keep their key.

    Args:
        registry: Knows equal turns.
        prefilled: The turn.
        run: Has its KV so far.
        block_tokens: Size of a block.

    Raises:
        RegistryError: the database cannot be used.
    """
    scope, tokens, exact = prefilled.scope, run.tokens.copy(), run.exact
    named = await threads.work(_named, scope, tokens, exact, block_tokens, uuid4().bytes)
    taken = await threads.work(_Taken, prefilled, exact)
    shared = await threads.work(lambda: {b.start: key for b, _ in named if (key := taken.whole(b.start, b.length))})
    fresh = [b.prefix.hex() for b, _ in named if b.start not in shared]
    found = await registry.find_chain(scope, fresh) if fresh else {}
    duplicates = {chain: key for chain, (_, key) in found.items()}

    def made() -> TurnBlocks:
        blocks: list[NewBlock] = []
        replaced: list[tuple[str, str]] = []
        for block, content in named:
            known = {block.prefix.hex(): shared[block.start]} if block.start in shared else duplicates
            new = new_block(block, content, tokens, known, run.token_bytes)
            blocks.append(new)
            short = None if new.known else taken.shorter(block.start, block.length)
            if short is not None:
                replaced.append((short, new.key))
        return TurnBlocks(tokens, min(exact, len(tokens)), tuple(blocks), tuple(replaced))

    return await threads.work(made)


def _named(
    scope: Scope, tokens: Ints, exact_tokens: int, block_tokens: int, salt: bytes = b""
) -> list[tuple[HashedBlock, int | None]]:
    """Blocks with their content names."""
    named = hashes.hash_blocks(scope, tokens, block_tokens, exact_tokens, salt)
    return list(zip(named, hashes.content_hashes(scope, tokens, named, block_tokens), strict=True))


async def exact_blocks(
    registry: Registry, scope: Scope, run: RowRun, frontier: int, block_tokens: int
) -> list[NewBlock]:
    """The whole blocks between a stored turn's frontier and the one that a run has reached, under their true names.

    Args:
        registry: Knows equal turns.
        scope: Tenant and model.
        run: Has the turn's KV.
        frontier: How far the turn's stored KV is exact.
        block_tokens: Size of a block.

    Raises:
        RegistryError: the database cannot be used.
    """
    tokens = run.tokens
    named = await threads.work(_named, scope, tokens, len(tokens), block_tokens)
    done = [(b, content) for b, content in named if frontier < b.start + b.length <= run.exact]
    found = await registry.find_chain(scope, [b.prefix.hex() for b, _ in done]) if done else {}
    duplicates = {chain: key for chain, (_, key) in found.items()}
    return [new_block(block, content, tokens, duplicates, run.token_bytes) for block, content in done]


def new_block(
    named: HashedBlock, content: int | None, tokens: Ints, known: Mapping[str, str], token_bytes: int
) -> NewBlock:
    """A block as it is registered.

    Args:
        named: Its place and chain name.
        content: Its content name.
        tokens: The turn's token ids, shape `(tokens,)`.
        known: Keys of registered blocks by chain name, hexadecimal.
        token_bytes: Bytes of one token's KV.
    """
    chain = named.prefix.hex()
    branch = hashes.partial_block_hash(named.parent, tokens[named.start : named.start + named.length])
    return NewBlock(
        start=named.start,
        length=named.length,
        chain=chain,
        branch=None if branch is None else branch.hex(),
        content=content,
        key=known.get(chain) or uuid4().hex,
        size_bytes=named.length * token_bytes,
        known=chain in known,
    )


class _Taken:
    """What of a turn's KV its donors have already.

    Args:
        prefilled: The turn.
        exact: Its exact frontier by now.
    """

    def __init__(self, prefilled: Prefilled, exact: int):
        self._alignment = prefilled.alignment
        self._exact = exact
        self._whose = unchanged(prefilled.prompt, prefilled.alignment, prefilled.plan)

    def _donor_of(self, start: int, end: int) -> Donor | None:
        """The donor whose KV of a range is in the buffer as it is; None where there is none."""
        whose = self._whose[start:end]
        if end > len(self._whose) or whose[0] < 0 or (whose != whose[0]).any():
            return None
        if start < self._exact and not (self._alignment.kind[start:end] == Kind.EXACT).all():
            return None  # repaired since
        return self._alignment.donors[int(whose[0])]

    def whole(self, start: int, length: int) -> str | None:
        """The donor's block that already holds this block's KV."""
        donor = self._donor_of(start, start + length)
        if donor is None:
            return None
        return next((b.key for b in donor.blocks if b.start == start and b.length >= length), None)

    def shorter(self, start: int, length: int) -> str | None:
        """A donor's shorter block with which this block begins; this block can take its place."""
        for donor in self._alignment.donors:
            for block in donor.blocks:
                if block.start == start and block.length < length and block.stored_tokens == block.length:
                    worse = self._exact < min(donor.exact_tokens, start + block.length)
                    if self._donor_of(start, start + block.length) is donor and not worse:
                        return block.key
        return None


def new_turn(prefilled: Prefilled, answer: str, stored: TurnBlocks, signer: Signer) -> NewTurn:
    """A turn as it is registered.

    Args:
        prefilled: The turn.
        answer: Its answer, as it was written.
        stored: Its KV, as far as it is kept.
        signer: Makes its signature.
    """
    bands = signer.bands(stored.tokens) if stored.blocks else ()
    return NewTurn(
        tokens=stored.tokens,
        blocks=stored.blocks,
        bands=tuple(np.unique(bands).tolist()),
        messages=prefilled.request.messages,
        answer=answer,
        report=prefilled.report,
        prompt_tokens=len(prefilled.prompt),
        session=prefilled.request.session,
        exact_tokens=stored.exact_tokens,
        depth=_depth(prefilled, stored.exact_tokens == len(stored.tokens)),
        superseded=_superseded(prefilled, stored.tokens),
    )


def _depth(prefilled: Prefilled, exact: bool) -> int:
    """Approximate turns between this one and a cold run."""
    if exact:
        return 0
    depths = [donor.depth for donor in prefilled.alignment.donors if donor.turn_id in prefilled.report.donors]
    return 1 + max(depths, default=0)


def _superseded(prefilled: Prefilled, tokens: Ints) -> int | None:
    """A donor whose tokens are all a prefix of this turn's: whoever resembles it resembles this turn."""
    for candidate in prefilled.alignment.donors:
        if equal_ahead(candidate.tokens, tokens) == len(candidate.tokens):
            return candidate.turn_id
    return None
