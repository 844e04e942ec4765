"""Load stored KV into a run's buffer, keys rotated to their new places."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial

import numpy as np

from semshare_agents.concurrency import threads
from semshare_agents.engine import Engine, Priority, Within
from semshare_agents.kv.assemble import assemble, fills, infos
from semshare_agents.kv.rotary import KeyMover
from semshare_agents.match.align import align
from semshare_agents.match.find import find
from semshare_agents.memory import Memory
from semshare_agents.model.run import RowRun
from semshare_agents.model.runs import Runs
from semshare_agents.store.loaded import NO_OWNER, Owner
from semshare_agents.values import Alignment, Ints, Kind, Reuse, Scope


@dataclass(frozen=True)
class Loader:
    """Brings stored KV to where a prompt needs it.

    Attributes:
        memory: Where it is.
        engine: Lays it into buffers.
        runs: Makes runs.
        mover: Moves keys; None leaves them as they are.
    """

    memory: Memory
    engine: Engine
    runs: Runs
    mover: KeyMover | None

    async def load(
        self,
        scope: Scope,
        alignment: Alignment,
        positions: Ints,
        run: RowRun,
        owner: Owner = NO_OWNER,
        within: Within = nullcontext,
        priority: Priority = Priority.ANSWER,
    ) -> Mapping[str, str]:
        """Fill positions of a buffer; nothing is filled where a block is missing.

        Args:
            scope: Tenant and model.
            alignment: Where each position's KV comes from.
            positions: What is filled, ascending, shape `(positions,)`.
            run: Whose buffer.
            owner: Who uses the blocks.
            within: Entered around what takes time.
            priority: Whether somebody waits for it.

        Returns:
            Keys of the blocks that could not be served, with the reason.
        """
        with within():
            parts = await threads.work(fills, alignment, positions)
            wanted = await threads.work(infos, parts, scope, alignment)
        async with self.memory.loaded(wanted, owner, within) as found:
            if not found.missing:
                move = partial(assemble, run.buffer, parts, found.kv, alignment, self.mover)
                await self.engine.call(move, run, within, priority)
        return found.missing

    async def exact_run(self, scope: Scope, tokens: Ints) -> RowRun:
        """A run that begins where stored exact KV of `tokens`, shape `(tokens,)`, ends; calls go before it.

        Raises:
            RegistryError: the database cannot be used.
        """
        run, exact, size = self.runs.by_rows(len(tokens)), len(tokens), self.memory.spec.block_tokens
        try:
            while True:
                found = await find(self.memory.registry, scope, tokens[:exact], size, Reuse.EXACT, exact)
                alignment = await threads.work(align, tokens[:exact], found, exact)
                positions = np.flatnonzero(alignment.kind == Kind.EXACT)
                missing = await self.load(scope, alignment, positions, run, priority=Priority.IDLE)
                if not missing:
                    break
                lost = [int(part.target[0]) for part in fills(alignment, positions) if part.block.key in missing]
                exact = min(lost)
        except BaseException:
            run.close()
            raise
        run.continue_from(tokens, found.exact_tokens)
        return run
