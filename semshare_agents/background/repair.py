"""Repair: compute again what a turn took approximately, until its KV is a cold run's.

While a turn answers, each decoding step carries some of these rows (`RowRun.step`). Here the rest follows while nobody
waits for the model: in ascending order, so that each row sees exact rows only, and the turn's exact frontier moves on.
What is behind the frontier is stored under its true chain names and serves other turns as exact.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

from semshare_agents.background.work import IdleWork
from semshare_agents.errors import SemShareError
from semshare_agents.model.run import RowRun
from semshare_agents.store.loaded import Owner
from semshare_agents.turn.blocks import exact_blocks
from semshare_agents.turn.load import Loader
from semshare_agents.values import Scope

log = logging.getLogger(__name__)

CHUNK_ROWS = 64
MOST_WAITING = 64


@dataclass(frozen=True)
class Job:
    """A stored turn some of whose KV is approximate."""

    scope: Scope
    turn_id: int
    session: str | None = None


class Repairer(IdleWork[Job]):
    """Repairs turns in idle time, the newest first; a newer one goes before one under way, whose progress is kept.

    Args:
        loader: Brings what is stored of them.
    """

    def __init__(self, loader: Loader):
        super().__init__(MOST_WAITING)
        self._loader = loader
        self._newer = False

    def add(self, scope: Scope, turn_id: int, session: str | None) -> None:
        """Repair a turn when there is time; of too many that wait the oldest stays as it is."""
        self._newer = True
        self._put(Job(scope, turn_id, session))

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

    def _wanted(self) -> bool:
        return not (self._closing or self._newer)

    async def _repair(self, job: Job) -> bool:
        """Repair one turn; returns False where it was interrupted."""
        memory, engine = self._loader.memory, self._loader.engine
        await engine.idle.quiet()
        donors = await memory.registry.donors(job.scope, [job.turn_id])
        if not donors or not donors[0].stored().all():
            return True
        tokens, frontier = donors[0].tokens, donors[0].exact_tokens
        self._running = run = await self._loader.exact_run(job.scope, tokens)
        try:
            while run.exact < run.length and self._wanted():
                await engine.when_idle(lambda: run.again(CHUNK_ROWS), run, self._wanted)
            if not await memory.unchanged(job.scope):
                # Its rows were computed, or would be, with other weights than its KV.
                return True
            await self._save(job, frontier, run)
            return run.exact == run.length
        finally:
            self._running = None
            run.close()

    async def _save(self, job: Job, frontier: int, run: RowRun) -> None:
        """Store whole blocks between the turn's frontier and the one reached now."""
        memory, scope = self._loader.memory, job.scope
        blocks = await exact_blocks(memory.registry, scope, run, frontier, memory.spec.block_tokens)
        if blocks:
            reached, owner = blocks[-1].start + blocks[-1].length, Owner(scope.tenant, job.session or "")
            if not await memory.replace(scope, job.turn_id, run, blocks, reached, owner):
                log.warning("turn %d stays approximate: no tier has room for what was repaired", job.turn_id)
