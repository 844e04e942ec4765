"""Repair: compute again what a turn took approximately, until its KV is a cold run's.

While a turn answers, each decoding step carries some of these rows (`RowRun.step`). Here the rest follows while nobody
waits for the model: in ascending order, so that each row sees exact rows only, and the turn's exact frontier moves on.
What is behind the frontier is stored under its true chain names and serves other turns as exact.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from semshare_agents import threads
from semshare_agents.errors import SemShareError
from semshare_agents.idle import IdleWork
from semshare_agents.kv.assemble import assemble, fills, infos
from semshare_agents.match import names
from semshare_agents.match.align import align
from semshare_agents.match.find import find
from semshare_agents.model.rows import ForwardStopped
from semshare_agents.model.run import RowRun
from semshare_agents.pinning import refresh
from semshare_agents.remember import (
    Stored,
    drop_taken,
    fresh,
    keep_blocks,
    make_durable,
    new_block,
    retire,
    settle_departures,
    unwritten,
)
from semshare_agents.store.tiers import Owner
from semshare_agents.turn import Turns
from semshare_agents.values import Ints, Kind, Reuse, Scope

log = logging.getLogger(__name__)

T = TypeVar("T")

CHUNK_ROWS = 64
MOST_WAITING = 64


@dataclass(frozen=True)
class Job:
    """A stored turn some of whose KV is approximate."""

    scope: Scope
    turn_id: int
    session: str | None = None


async def load_exact(turns: Turns, scope: Scope, tokens: Ints, run: RowRun) -> None:
    """Let a run begin where stored exact KV of `tokens`, shape `(tokens,)`, ends; other turns may have brought some."""
    found = await find(turns.registry, scope, tokens, turns.block_tokens, Reuse.EXACT, len(tokens))
    alignment = align(tokens, found, len(tokens))
    parts = await threads.work(fills, alignment, np.flatnonzero(alignment.kind == Kind.EXACT))
    wanted = infos(parts, scope, alignment)
    with turns.tiers.leases.hold([i.key for i in wanted]):
        loaded = await threads.work(turns.tiers.load, wanted)
        missing = [int(p.target[0]) for p in parts if p.block.key in loaded.missing]
        exact = min([found.exact_tokens, *missing])
        usable = [p for p in parts if p.target[-1] < exact]
        await threads.work(assemble, run.buffer, usable, loaded.kv, alignment, None)
    run.continue_from(tokens, exact)


async def when_idle(turns: Turns, run: RowRun, wanted: Callable[[], bool], work: Callable[[], T]) -> T | None:
    """Compute with a run once nobody waits for the model; None where it is no longer wanted or a call ended it."""
    await turns.idle.quiet()
    if not wanted():
        return None
    run.stop.clear()
    with turns.idle.background(run.stop), suppress(ForwardStopped):
        return await asyncio.get_running_loop().run_in_executor(turns.compute, work)
    return None


class Repairer(IdleWork[Job]):
    """Repairs turns in idle time, the newest first; a newer one goes before one under way, whose progress is kept.

    Args:
        turns: The stages and what they need.
    """

    def __init__(self, turns: Turns):
        super().__init__(MOST_WAITING)
        self._turns = turns
        self._newer = False

    def add(self, job: Job) -> None:
        """Repair a turn when there is time; of too many that wait the oldest stays as it is."""
        self._newer = True
        self._put(job)

    async def _work(self) -> None:
        while self._waiting:
            job = self._waiting.pop()
            self._newer = False
            try:
                finished = await self._repair(job)
                if not finished and not self._closing and len(self._waiting) < MOST_WAITING:
                    self._waiting.insert(-1, job)
            except SemShareError as e:
                log.warning("turn %d stays approximate: %s", job.turn_id, e)

    def _interrupted(self) -> bool:
        return self._closing or self._newer

    async def _repair(self, job: Job) -> bool:
        """Repair one turn; returns False where it was interrupted."""
        turns = self._turns
        await turns.idle.quiet()
        donors = await turns.registry.donors(job.scope, [job.turn_id])
        if not donors or not donors[0].stored().all():
            return True
        tokens, frontier = donors[0].tokens, donors[0].exact_tokens
        assert turns.model.support.rows is not None
        assert turns.pool is not None
        run = RowRun(turns.model.support.rows, turns.pool, len(tokens))
        self._running = run
        try:
            await load_exact(turns, job.scope, tokens, run)
            while run.exact < run.length and not self._interrupted():
                await self._chunk(run)
            if not await turns.unchanged(job.scope):
                # Its rows were computed, or would be, with other weights than its KV.
                return True
            await self._save(job, tokens, frontier, run)
            return run.exact == run.length
        finally:
            self._running = None
            run.close()

    async def _chunk(self, run: RowRun) -> None:
        await when_idle(self._turns, run, lambda: not self._interrupted(), lambda: run.repair(CHUNK_ROWS))

    async def _save(self, job: Job, tokens: Ints, frontier: int, run: RowRun) -> None:
        """Store whole blocks between the turn's frontier and the one reached now."""
        turns, scope, size = self._turns, job.scope, self._turns.block_tokens
        named = names.name_blocks(scope, tokens, size, exact_tokens=len(tokens))
        contents = names.contents(scope, tokens, named, size)
        done = [(b, c) for b, c in zip(named, contents, strict=True) if frontier < b.start + b.length <= run.exact]
        if not done:
            return
        found = await turns.registry.find_chain(scope, [b.chain.hex() for b, _ in done])
        twins = {chain: key for chain, (_, key) in found.items()}
        blocks = [new_block(b, content, tokens, twins, run.token_bytes) for b, content in done]
        owner = Owner(scope.tenant, job.session or "")
        await refresh(turns.registry, turns.tiers)
        kept = await threads.store(keep_blocks, turns, scope, run, blocks, owner)
        reached = blocks[-1].start + blocks[-1].length
        try:
            await settle_departures(turns)
            if len(kept) < len(blocks):
                log.warning("turn %d stays approximate: no tier has room for what was repaired", job.turn_id)
                await threads.store(turns.tiers.forget, fresh(kept))
                return
            unused = await turns.registry.repaired(scope, job.turn_id, kept, reached, finished=reached == len(tokens))
        except BaseException:
            # KV that no row names would stay for ever.
            await threads.store(turns.tiers.forget, fresh(kept))
            raise
        await drop_taken(turns, kept)
        await make_durable(turns, scope.fingerprint, Stored(job.turn_id, unwritten(kept), owner=owner))
        await retire(turns, unused)
