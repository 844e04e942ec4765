"""Store: what a finished turn leaves behind.

Blocks that the turn shares with its donors are linked, new ones are copied out of the run's buffer into the fast tier
and registered in one transaction; then their files are written in the background, and only a file that is safely there
makes its row visible to other processes. Where there is no fast tier, files come first.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from threading import Event
from uuid import uuid4

import numpy as np

from semshare_agents import threads
from semshare_agents.answering import Answer
from semshare_agents.errors import StoreError
from semshare_agents.kv.content import Content, describe
from semshare_agents.kv.layout import take
from semshare_agents.match import names
from semshare_agents.match.names import NamedBlock
from semshare_agents.match.spans import equal_ahead
from semshare_agents.model.run import RowRun
from semshare_agents.observe.report import effective_kinds
from semshare_agents.pinning import refresh
from semshare_agents.registry import NewBlock, NewTurn, Registry
from semshare_agents.store.base import BlockInfo
from semshare_agents.store.tiers import NO_OWNER, Departure, Owner, Tiers
from semshare_agents.turn import Prefilled, Turns
from semshare_agents.values import Donor, Ints, Kind, Scope

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Stored:
    """A turn that the registry knows, and what is still to be written.

    Attributes:
        turn_id: The turn.
        unwritten: Blocks that only this process has, in a tier that keeps them until their files are written.
        superseded: Pairs of keys `(short block, longer block that takes its place)`.
        repairable: Whether some of its KV is approximate and all of it was kept.
        owner: Whose it is.
    """

    turn_id: int
    unwritten: tuple[NewBlock, ...]
    superseded: tuple[tuple[str, str], ...] = ()
    repairable: bool = False
    owner: Owner = NO_OWNER


@dataclass(frozen=True)
class Kept:
    """A turn's KV, copied out of its run, before the registry knows of it.

    Attributes:
        tokens: Tokens whose KV the run had, shape `(tokens,)`.
        exact_tokens: Of these, the prefix that equals a cold run's.
        blocks: Their blocks, as far as a tier has them.
        superseded: Pairs of keys `(short block, longer block that takes its place)`.
    """

    tokens: Ints = field(default_factory=lambda: np.zeros(0, np.int64))
    exact_tokens: int = 0
    blocks: tuple[NewBlock, ...] = ()
    superseded: tuple[tuple[str, str], ...] = ()

    @property
    def fresh(self) -> list[str]:
        """Keys that nothing but this turn will name."""
        return fresh(self.blocks)


async def keep(turns: Turns, prefilled: Prefilled) -> Kept:
    """Keep the KV that a run has so far in the fastest tier with room.

    Where the RAM's budget is full of blocks that wait for a slow disk, blocks are written at once, and the turn waits.
    What a caller who goes away meanwhile leaves behind is forgotten.

    Raises:
        RegistryError: the database cannot be used.
    """
    run = prefilled.run
    if not isinstance(run, RowRun):
        return Kept()
    tokens = run.tokens.copy()
    blocks, superseded = await _blocks(turns, prefilled, run, tokens)
    owner = owner_of(prefilled)
    await refresh(turns.registry, turns.tiers)
    exact, stop = min(run.exact, len(tokens)), Event()
    keeping = asyncio.ensure_future(threads.store(keep_blocks, turns, prefilled.scope, run, blocks, owner, stop.is_set))
    try:
        kept = await asyncio.shield(keeping)
        await settle_departures(turns)
    except BaseException:
        stop.set()
        keeping.add_done_callback(lambda done: _forget_kept(turns, done))
        raise
    return Kept(tokens, exact, tuple(kept), tuple(superseded))


def _forget_kept(turns: Turns, keeping: asyncio.Future[list[NewBlock]]) -> None:
    """Forget what nobody will register; what was not kept to the end has cleaned up after itself."""
    if not keeping.cancelled() and keeping.exception() is None:
        threads.store_later(turns.tiers.forget, fresh(keeping.result()))


def fresh(blocks: Sequence[NewBlock]) -> list[str]:
    """Keys of blocks that no row names yet."""
    return [block.key for block in blocks if not block.known]


async def remember(turns: Turns, prefilled: Prefilled, answer: Answer, kept: Kept) -> Stored:
    """Register a turn whose KV is kept.

    Raises:
        RegistryError: the database cannot be written.
    """
    tokens, exact = kept.tokens, kept.exact_tokens
    registered = kept.blocks
    new_turn = NewTurn(
        tokens=tokens,
        blocks=registered,
        bands=tuple(await threads.work(_bands, turns, prefilled, tokens)) if registered else (),
        messages=prefilled.request.messages,
        answer=answer.text,
        report=prefilled.report,
        prompt_tokens=len(prefilled.prompt),
        session=prefilled.request.session,
        exact_tokens=exact,
        depth=_depth(prefilled, exact == len(tokens)),
        superseded=_superseded(prefilled, tokens),
    )
    turn_id = await turns.registry.add_turn(prefilled.scope, new_turn)
    await drop_taken(turns, registered)
    present = {b.key for b in registered}
    return Stored(
        turn_id,
        unwritten(registered),
        tuple(pair for pair in kept.superseded if pair[1] in present),
        repairable=exact < len(tokens) and _unbroken(registered, len(tokens)),
        owner=owner_of(prefilled),
    )


def unwritten(blocks: Sequence[NewBlock]) -> tuple[NewBlock, ...]:
    """New blocks that only RAM has."""
    return tuple(block for block in blocks if not block.known and not block.durable)


async def drop_taken(turns: Turns, blocks: Sequence[NewBlock]) -> None:
    """Forget new blocks whose files went before their rows were there: whoever let them go could not know the rows.

    Raises:
        RegistryError: the database cannot be written.
    """
    files = [block.key for block in blocks if block.durable and not block.known]
    if files:
        taken = await threads.store(turns.tiers.taken, files)
        await turns.registry.drop_blocks(taken, "evict", "no room on disk")
        await threads.store(turns.tiers.forget, taken)


def owner_of(prefilled: Prefilled) -> Owner:
    """Whose blocks a turn brings."""
    return Owner(prefilled.scope.tenant, prefilled.request.session or "")


def _unbroken(blocks: Sequence[NewBlock], tokens: int) -> bool:
    return sum(b.length for b in blocks) == tokens


async def make_durable(turns: Turns, fingerprint: str, stored: Stored) -> None:
    """Write a stored turn's new blocks to disk, then let every process see them; retire the blocks they replace."""
    try:
        async with turns.writing:
            replaced = await _write_files(turns, fingerprint, stored)
    finally:
        turns.tiers.written([block.key for block in stored.unwritten])
    await retire(turns, replaced)


async def _write_files(turns: Turns, fingerprint: str, stored: Stored) -> list[str]:
    """Returns the keys of replaced blocks."""
    await refresh(turns.registry, turns.tiers)
    if turns.tiers.durable is not None and (stored.unwritten or turns.unwritten):
        with turns.tiers.leases.hold([b.key for b in stored.unwritten]):
            written = await threads.store(_write, turns, fingerprint, stored)
        # Room may have been needed before a file was written; its row is gone then.
        unnamed = await turns.registry.made_durable(written)
        await threads.store(turns.tiers.forget, unnamed)
    await threads.store(turns.tiers.sweep)
    await settle_departures(turns)
    # Large turns evict their own blocks from RAM; those that the disk refuses too are nowhere.
    nowhere = [b.key for b in stored.unwritten if not turns.tiers.anywhere(b.key)]
    await turns.registry.drop_blocks(nowhere, "evict", "no tier had room")
    return [old for old, new in stored.superseded if await turns.registry.supersede(old, new)]


async def settle_departures(turns: Turns) -> None:
    """Put on record what tiers let go; rows of what is nowhere any more go, and files of it that were finished late."""
    departures = turns.tiers.departures()
    lost = await record_departures(turns.registry, turns.tiers, departures)
    await threads.store(turns.tiers.forget, lost)


async def record_departures(registry: Registry, tiers: Tiers, departures: Sequence[Departure]) -> list[str]:
    """One event for each tier and reason: `evict` for blocks that are gone, `demote` for those that a tier still has.

    What left the disk is gone, also where RAM still has it or brought it back: its row promises every process a file,
    and processes that saw it leave remove what they have of it.

    Returns:
        Keys of blocks that are gone.

    Raises:
        RegistryError: the database cannot be written.
    """
    gone: dict[str, list[str]] = {}
    demoted: dict[str, dict[str, int]] = {}
    durable = tiers.durable
    for left in departures:
        why = f"{left.tier}: {left.reason}"
        from_disk = durable is not None and left.tier == durable.name
        if not from_disk and tiers.anywhere(left.key):
            demoted.setdefault(why, {})[left.key] = left.entry.tokens
        else:
            gone.setdefault(why, []).append(left.key)
    for why, keys in gone.items():
        await registry.drop_blocks(list(dict.fromkeys(keys)), "evict", why)
    for why, tokens in demoted.items():
        await registry.demoted([k for k in tokens if durable is not None and k in durable], sum(tokens.values()), why)
    return [key for keys in gone.values() for key in keys]


async def retire(turns: Turns, keys: Sequence[str]) -> None:
    """Delete KV that no row names any more, once the calls that may still have found it are over."""
    if keys:
        await turns.idle.drained()
        # A file that is still being written would outlive its row.
        async with turns.writing:
            await threads.store(turns.tiers.forget, keys)


def _write(turns: Turns, fingerprint: str, stored: Stored) -> list[str]:
    """Write what waits and what is new; where one block cannot be written, the rest waits for the next turn.

    What waits for a disk that fails may be let go: RAM then works as if there were no disk.
    """
    written: list[str] = []
    new = {b.key: (BlockInfo(b.key, fingerprint, b.length), b.start, stored.owner) for b in stored.unwritten}
    failed = False
    for key, (info, depth, owner) in {**turns.unwritten, **new}.items():
        kv, kept = turns.tiers.in_memory(info), False
        if kv is not None and not failed:
            try:
                kept = turns.tiers.keep_durable(info, kv, depth, owner)
            except StoreError as e:
                log.warning("blocks stay in memory until they can be written: %s", e)
                failed = True
        turns.tiers.written([key])
        if kv is not None and failed:
            turns.unwritten[key] = (info, depth, owner)
        else:
            turns.unwritten.pop(key, None)
        if kept:
            written.append(key)
    return written


async def _blocks(
    turns: Turns, prefilled: Prefilled, run: RowRun, tokens: Ints
) -> tuple[list[NewBlock], list[tuple[str, str]]]:
    """Name a turn's blocks; those that a donor or an equal turn has already keep their key."""
    size, scope = turns.block_tokens, prefilled.scope
    named = names.name_blocks(scope, tokens, size, run.exact, salt=uuid4().bytes)
    contents = names.contents(scope, tokens, named, size)
    shared = {b.start: key for b in named if (key := _shared_key(prefilled, b.start, b.length)) is not None}
    fresh = [b.chain.hex() for b in named if b.start not in shared]
    found = await turns.registry.find_chain(scope, fresh) if fresh else {}
    twins = {chain: key for chain, (_, key) in found.items()}
    token_bytes = run.token_bytes
    blocks: list[NewBlock] = []
    superseded: list[tuple[str, str]] = []
    for block, content in zip(named, contents, strict=True):
        known = {block.chain.hex(): shared[block.start]} if block.start in shared else twins
        new = new_block(block, content, tokens, known, token_bytes)
        blocks.append(new)
        short = None if new.known else _short_twin(prefilled, block.start, block.length)
        if short is not None:
            superseded.append((short, new.key))
    return blocks, superseded


def new_block(
    named: NamedBlock, content: int | None, tokens: Ints, known: Mapping[str, str], token_bytes: int
) -> NewBlock:
    """A block as it is registered.

    Args:
        named: Its place and chain name.
        content: Its content name.
        tokens: The turn's token ids, shape `(tokens,)`.
        known: Keys of registered blocks by chain name, hexadecimal.
        token_bytes: Bytes of one token's KV.
    """
    chain = named.chain.hex()
    branch = names.branch(named.parent, tokens[named.start : named.start + named.length])
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


def _taken_in_place(prefilled: Prefilled, start: int, end: int) -> Donor | None:
    """The donor from which all of a range was taken, unmoved and unchanged; None where there is none."""
    alignment = prefilled.alignment
    if end > len(prefilled.prompt) or prefilled.plan.cold:
        return None
    who = alignment.donor[start:end]
    if who[0] < 0 or (who != who[0]).any() or (alignment.source[start:end] != np.arange(start, end)).any():
        return None
    # A row of an exact prefix that was computed again has the donor's KV all the same.
    exact = alignment.kind[start:end] == Kind.EXACT
    if isinstance(prefilled.run, RowRun) and start < prefilled.run.exact and not exact.all():
        return None  # repaired since
    used = effective_kinds(alignment, prefilled.plan)[start:end] != Kind.COMPUTED
    donor = alignment.donors[int(who[0])]
    # A reworded token has another's KV; a block says of which tokens its KV is.
    same = np.array_equal(donor.tokens[start:end], prefilled.prompt[start:end])
    return donor if same and (exact | used).all() and not prefilled.plan.layer_shares else None


def _shared_key(prefilled: Prefilled, start: int, length: int) -> str | None:
    """The donor's block that already holds this block's KV."""
    donor = _taken_in_place(prefilled, start, start + length)
    if donor is None:
        return None
    return next((b.key for b in donor.blocks if b.start == start and b.length >= length), None)


def _short_twin(prefilled: Prefilled, start: int, length: int) -> str | None:
    """A donor's shorter block with which this block begins; this block can take its place."""
    for donor in prefilled.alignment.donors:
        for block in donor.blocks:
            if block.start == start and block.length < length and block.stored_tokens == block.length:
                taken = _taken_in_place(prefilled, start, start + block.length)
                worse = isinstance(prefilled.run, RowRun) and prefilled.run.exact < min(
                    donor.exact_tokens, start + block.length
                )
                if taken is donor and not worse:
                    return block.key
    return None


def keep_blocks(
    turns: Turns,
    scope: Scope,
    run: RowRun,
    blocks: Sequence[NewBlock],
    owner: Owner,
    stopped: Callable[[], bool] = lambda: False,
) -> list[NewBlock]:
    """Copy new blocks out of a buffer into the fastest tier with room; deepest first, so that heads count as used last.

    Args:
        turns: Where they are kept.
        scope: Tenant and model.
        run: Has their KV.
        blocks: What to keep; those that are known already stay as they are.
        owner: Whose they are.
        stopped: Whether nobody wants them any more.

    Returns:
        The blocks that are kept.

    Raises:
        StoreError: nobody wants them any more. After this or any other error none is kept.
    """
    kept: list[NewBlock] = []
    contents = describe(scope, run.tokens, [(b.start, b.length) for b in blocks], run.exact)
    try:
        for block, content in zip(reversed(blocks), reversed(contents), strict=True):
            if stopped():
                raise StoreError("the turn was given up while it was stored")
            found = _keep_block(turns, scope, run, block, content, owner)
            kept += [] if found is None else [found]
    except BaseException:
        turns.tiers.forget(fresh(kept))
        raise
    return kept[::-1]


def _keep_block(
    turns: Turns, scope: Scope, run: RowRun, block: NewBlock, content: Content, owner: Owner
) -> NewBlock | None:
    """A block as it is kept; None where no tier has room or can be written."""
    if block.known:
        turns.tiers.touch([block.key], owner)
        return block
    kv = turns.packing.pack(take(run.buffer, block.start, block.start + block.length))
    kv = replace(kv, content=content.text())
    block = replace(block, size_bytes=kv.nbytes)
    info = BlockInfo(block.key, scope.fingerprint, block.length)
    try:
        if turns.tiers.keep_fast(info, kv, block.start, owner, until_written=True):
            return block
        if turns.tiers.keep_durable(info, kv, block.start, owner):
            return replace(block, durable=True)
    except StoreError as e:
        log.warning("a block is not kept: %s", e)
    return None


def _bands(turns: Turns, prefilled: Prefilled, tokens: Ints) -> list[int]:
    values: list[int] = np.unique(turns.signer(prefilled.scope).bands(tokens)).tolist()
    return values


def _depth(prefilled: Prefilled, exact: bool) -> int:
    """Approximate turns between this one and a cold run."""
    if exact:
        return 0
    depths = [d.depth for d in prefilled.alignment.donors if d.turn_id in prefilled.report.donors]
    return 1 + max(depths, default=0)


def _superseded(prefilled: Prefilled, tokens: Ints) -> int | None:
    """A donor whose tokens are all a prefix of this turn's: whoever resembles it resembles this turn."""
    for candidate in prefilled.alignment.donors:
        if equal_ahead(candidate.tokens, tokens) == len(candidate.tokens):
            return candidate.turn_id
    return None
