"""Store: what a finished turn leaves behind.

Blocks that the turn shares with its donors are linked, new ones are copied out of the run's buffer into the fast tier
and registered in one transaction; then their files are written in the background, and only a file that is safely there
makes its row visible to other processes. Where there is no fast tier, files come first.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, replace
from uuid import uuid4

import numpy as np

from semshare_agents.errors import StoreError
from semshare_agents.match import names
from semshare_agents.match.spans import equal_ahead
from semshare_agents.model.run import RowRun
from semshare_agents.observe.report import effective_kinds
from semshare_agents.registry import NewBlock, NewTurn
from semshare_agents.store.base import BlockInfo
from semshare_agents.store.packing import Packed
from semshare_agents.turn import Answer, Prefilled, Turns
from semshare_agents.values import Donor, Ints, Kind

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Stored:
    """A turn that the registry knows, and what is still to be written.

    Attributes:
        turn_id: The turn.
        unwritten: Blocks that only this process has.
        superseded: Pairs of keys `(short block, longer block that takes its place)`.
    """

    turn_id: int
    unwritten: tuple[tuple[NewBlock, Packed], ...]
    superseded: tuple[tuple[str, str], ...]


async def remember(turns: Turns, prefilled: Prefilled, answer: Answer) -> Stored:
    """Register a turn and keep its KV in the fastest tier with room.

    Raises:
        RegistryError: the database cannot be written.
    """
    run, report = prefilled.run, prefilled.report
    tokens = np.zeros(0, np.int64)
    kept: list[tuple[NewBlock, Packed | None]] = []
    superseded: list[tuple[str, str]] = []
    if isinstance(run, RowRun):
        tokens = np.concatenate((prefilled.prompt, np.asarray(answer.tokens, np.int64)))[: run.length]
        exact = len(tokens) if report.exact_tokens == len(prefilled.prompt) else report.exact_tokens
        blocks, superseded = await _blocks(turns, prefilled, tokens, exact)
        kept, lost = await asyncio.to_thread(_keep, turns, prefilled, run, blocks)
        await turns.registry.drop_blocks(lost, "evict", "no tier had room")
    registered = tuple(block for block, _ in kept)
    new_turn = NewTurn(
        tokens=tokens,
        blocks=registered,
        bands=tuple(await asyncio.to_thread(_bands, turns, prefilled, tokens)) if registered else (),
        messages=prefilled.request.messages,
        answer=answer.text,
        report=report,
        prompt_tokens=len(prefilled.prompt),
        session=prefilled.request.session,
        depth=_depth(prefilled),
        superseded=_superseded(prefilled, tokens),
    )
    turn_id = await turns.registry.add_turn(prefilled.scope, new_turn)
    unwritten = tuple((b, kv) for b, kv in kept if kv is not None and not b.durable)
    present = {b.key for b in registered}
    return Stored(turn_id, unwritten, tuple(pair for pair in superseded if pair[1] in present))


async def make_durable(turns: Turns, fingerprint: str, stored: Stored) -> None:
    """Write a stored turn's new blocks to disk, then let every process see them; retire the blocks they replace."""
    if turns.tiers.durable is not None and stored.unwritten:
        with turns.tiers.leases.hold([b.key for b, _ in stored.unwritten]):
            written, lost = await asyncio.to_thread(_write, turns, fingerprint, stored)
        await turns.registry.made_durable(written)
        await turns.registry.drop_blocks(lost, "evict", "no room on disk")
    # Large turns evict their own blocks from RAM; those that the disk refuses too are nowhere.
    nowhere = [b.key for b, _ in stored.unwritten if not turns.tiers.anywhere(b.key)]
    await turns.registry.drop_blocks(nowhere, "evict", "no tier had room")
    for old, new in stored.superseded:
        if old not in turns.tiers.leases and await turns.registry.supersede(old, new):
            await asyncio.to_thread(turns.tiers.forget, [old])


def _write(turns: Turns, fingerprint: str, stored: Stored) -> tuple[list[str], list[str]]:
    written: list[str] = []
    lost: list[str] = []
    for block, kv in stored.unwritten:
        info = BlockInfo(block.key, fingerprint, block.length)
        try:
            kept, gone = turns.tiers.keep_durable(info, kv, block.start)
        except StoreError as e:
            log.warning("a block stays in memory only: %s", e)
            continue
        lost += gone
        if kept:
            written.append(block.key)
    return written, lost


async def _blocks(
    turns: Turns, prefilled: Prefilled, tokens: Ints, exact: int
) -> tuple[list[NewBlock], list[tuple[str, str]]]:
    """Name a turn's blocks; those that a donor or an equal turn has already keep their key."""
    size, scope = turns.block_tokens, prefilled.scope
    named = names.name_blocks(scope, tokens, size, exact, salt=uuid4().bytes)
    contents = names.contents(scope, tokens, named, size)
    shared = {b.start: key for b in named if (key := _shared_key(prefilled, b.start, b.length)) is not None}
    fresh = [b.chain.hex() for b in named if b.start not in shared]
    twins = await turns.registry.find_chain(scope, fresh) if fresh else {}
    blocks: list[NewBlock] = []
    superseded: list[tuple[str, str]] = []
    for block, content in zip(named, contents, strict=True):
        twin = twins.get(block.chain.hex())
        key = shared.get(block.start) or (twin[1] if twin else None)
        branch = names.branch(block.parent, tokens[block.start : block.start + block.length])
        new = NewBlock(
            start=block.start,
            length=block.length,
            chain=block.chain.hex(),
            branch=None if branch is None else branch.hex(),
            content=content,
            key=key or uuid4().hex,
            size_bytes=block.length * _token_bytes(turns),
            known=key is not None,
        )
        blocks.append(new)
        short = None if new.known else _short_twin(prefilled, block.start, block.length)
        if short is not None:
            superseded.append((short, new.key))
    return blocks, superseded


def _token_bytes(turns: Turns) -> int:
    rows = turns.model.support.rows
    assert rows is not None
    return rows.token_bytes


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
    used = effective_kinds(alignment, prefilled.plan)[start:end] != Kind.COMPUTED
    return alignment.donors[int(who[0])] if (exact | used).all() and not prefilled.plan.layer_shares else None


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
                if taken is donor:
                    return block.key
    return None


def _keep(
    turns: Turns, prefilled: Prefilled, run: RowRun, blocks: list[NewBlock]
) -> tuple[list[tuple[NewBlock, Packed | None]], list[str]]:
    """Copy new blocks out of the buffer; deepest first, so that heads count as used last."""
    kept: list[tuple[NewBlock, Packed | None]] = []
    lost: list[str] = []
    for block in reversed(blocks):
        if block.known:
            kept.append((block, None))
            continue
        kv = turns.packing.pack(run.buffer[:, :, :, block.start : block.start + block.length])
        block = replace(block, size_bytes=kv.nbytes)
        info = BlockInfo(block.key, prefilled.scope.fingerprint, block.length)
        done, gone = turns.tiers.keep_fast(info, kv, block.start)
        lost += gone
        if done:
            fast = turns.tiers.fast
            copy = fast.get(info) if fast is not None else None
            kept.append((block, kv.copy() if copy is None else copy))
            continue
        try:
            done, gone = turns.tiers.keep_durable(info, kv, block.start)
        except StoreError as e:
            log.warning("a block is not kept: %s", e)
            continue
        lost += gone
        if done:
            kept.append((replace(block, durable=True), None))
    return kept[::-1], lost


def _bands(turns: Turns, prefilled: Prefilled, tokens: Ints) -> list[int]:
    values: list[int] = np.unique(turns.signer(prefilled.scope).bands(tokens)).tolist()
    return values


def _depth(prefilled: Prefilled) -> int:
    """Approximate turns between this one and a cold run."""
    report = prefilled.report
    if report.exact_tokens == len(prefilled.prompt):
        return 0
    depths = [d.depth for d in prefilled.alignment.donors if d.turn_id in report.donors]
    return 1 + max(depths, default=0)


def _superseded(prefilled: Prefilled, tokens: Ints) -> int | None:
    """A donor whose tokens are all a prefix of this turn's: whoever resembles it resembles this turn."""
    for candidate in prefilled.alignment.donors:
        if equal_ahead(candidate.tokens, tokens) == len(candidate.tokens):
            return candidate.turn_id
    return None
