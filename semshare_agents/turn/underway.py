"""Prompts under way: what one turn has computed is there for others before it has its answer.

A turn that begins as another one does that is being computed waits for it and takes its KV, instead of computing it a
second time; of one that streams its answer it takes the prompt's KV at once. What a turn computed before it broke off
stays. All of it goes the way of any stored KV: as an unfinished turn, which the registry finds as a donor and lists
nowhere.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection
from contextlib import suppress

import numpy as np
from numpy.typing import NDArray

from semshare_agents.errors import SemShareError
from semshare_agents.match.spans import equal_ahead
from semshare_agents.memory import Memory
from semshare_agents.model.run import RowRun, Run
from semshare_agents.registry import NewTurn
from semshare_agents.turn.blocks import exact_blocks
from semshare_agents.turn.state import NOWHERE, Matched, TurnUnderway
from semshare_agents.values import Alignment, Kind, Report, Reuse

log = logging.getLogger(__name__)

LOOK_SECONDS = 0.02
"""How often a turn that waits looks how far the other one is."""
ENDED_SECONDS = 2.0
"""How long a look-up in the registry takes at most: so long a turn that ended in it is remembered."""
_UNFINISHED = Report("cold", {}, 1.0, {}, 0.0, 0, {}, 0.0, 0.0, "it has no answer yet")


class Underway:
    """The turns of this process that have no answer yet; all methods belong on the event loop's thread.

    Args:
        memory: Takes what they have computed.
        worth_waiting: `(tokens that are stored, tokens that another turn will have) -> whether to wait for them`.
    """

    def __init__(self, memory: Memory, worth_waiting: Callable[[int, int], bool]):
        self._memory = memory
        self._worth_waiting = worth_waiting
        self._turns: set[TurnUnderway] = set()
        self._leaving: set[asyncio.Task[None]] = set()

    def begin(self, matched: Matched, run: RowRun) -> TurnUnderway | None:
        """A turn begins; None for one that is not to be remembered."""
        if matched.scope is NOWHERE or not matched.request.store:
            return None
        ahead, known = _exact_ahead(matched.alignment)
        turn = TurnUnderway(matched, run, ahead, known)
        self._forget_ended()
        self._turns.add(turn)
        return turn

    def ahead(self, found: Matched, joined: Collection[TurnUnderway]) -> tuple[TurnUnderway, int] | None:
        """The turn whose KV goes furthest along a prompt, and how far; None where it is not worth waiting for any.

        One that ended while the registry was asked counts too: what it left is found at a second look.

        Args:
            found: The prompt, and what of it the registry has; its scope is never left.
            joined: Turns that were waited for.
        """
        if not found.request.reuse.allows(Reuse.EXACT):
            return None
        scope, prompt, stored = found.scope, found.asked.prompt, _leading(found.alignment.kind == Kind.EXACT)
        size, best = self._memory.spec.block_tokens, None
        self._forget_ended()
        for turn in self._turns.difference(joined):
            theirs = turn.matched
            if (theirs.scope.id, theirs.scope.fingerprint) != (scope.id, scope.fingerprint):
                continue
            reach = turn.published if turn.run.closed else turn.run.exact
            reach = reach if turn.over.is_set() else max(reach, turn.exact_ahead)
            # The last token is computed in any case.
            shared = min(equal_ahead(theirs.asked.prompt, prompt), reach, len(prompt) - 1) // size * size
            if shared > (stored if best is None else best[1]):
                best = turn, shared
        return best if best is not None and self._worth_waiting(stored, best[1]) else None

    async def joined(self, turn: TurnUnderway, tokens: int) -> None:
        """Wait until others find a prefix of a turn in the registry, or it is over."""
        while not turn.over.is_set() and turn.run.exact < tokens:
            with suppress(TimeoutError):
                await asyncio.wait_for(turn.over.wait(), LOOK_SECONDS)
        try:
            async with turn.lock:
                await self._publish(turn)
        except SemShareError as e:
            log.warning("what a turn under way has computed cannot be shared: %s", e)
            turn.exact_ahead = 0

    async def _publish(self, turn: TurnUnderway) -> None:
        """Register what a turn has computed exactly so far, in whole blocks; its lock is held."""
        memory, scope, run = self._memory, turn.matched.scope, turn.run
        size = memory.spec.block_tokens
        reached = run.exact // size * size if turn.registrable and not run.closed else 0
        if reached <= turn.published or not await memory.unchanged(scope):
            return
        tokens = run.tokens[:reached].copy()
        found = await exact_blocks(memory.registry, scope, run, 0, size)
        blocks = [block for block in found if block.start + size <= reached and block.length == size]
        kept = await memory.put(scope, run, blocks, turn.matched.owner)
        request = turn.matched.request
        new = NewTurn(
            tokens=tokens,
            blocks=kept,
            bands=(),
            messages=request.messages,
            answer="",
            report=_UNFINISHED,
            prompt_tokens=len(turn.matched.asked.prompt),
            exact_tokens=reached,
            session=request.session,
            unfinished=True,
        )
        try:
            turn.turn_id = await memory.commit(scope, new, turn.turn_id)
        except BaseException:
            await memory.discard(kept)
            raise
        turn.published = reached
        memory.write_later(scope, kept, turn.matched.owner)

    def leave(self, run: Run, turn: TurnUnderway | None, finished: bool) -> None:
        """Close a run, and where its turn broke off keep what it has computed first.

        Args:
            run: The run.
            turn: Its turn; None for one that is not to be remembered.
            finished: Whether the turn has its answer, or goes on with another run.
        """
        if turn is None or turn.run is not run:
            run.close()
            return
        turn.over.set()
        if finished and not turn.lock.locked():
            self._close(turn)
            return
        task = asyncio.get_running_loop().create_task(self._left(turn, finished))
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)

    async def _left(self, turn: TurnUnderway, finished: bool) -> None:
        async with turn.lock:
            try:
                if not finished:
                    await self._publish(turn)
            except SemShareError as e:
                log.warning("what a turn computed before it broke off is lost: %s", e)
            finally:
                self._close(turn)

    @staticmethod
    def _close(turn: TurnUnderway) -> None:
        turn.run.close()
        turn.ended_at = time.monotonic()

    def _forget_ended(self) -> None:
        since = time.monotonic() - ENDED_SECONDS
        # Whoever takes a prompt no further than its KV closes the run alone.
        self._turns = {t for t in self._turns if not t.run.closed or (t.ended_at or 0.0) > since}

    async def settle(self) -> None:
        """Wait until all that broke off is kept."""
        while self._leaving:
            await asyncio.wait(self._leaving)


def _exact_ahead(alignment: Alignment) -> tuple[int, int]:
    """How long the prefix is whose KV will be exact whatever the plan, and how long the part of it that is stored."""
    exact = alignment.kind == Kind.EXACT
    return _leading(exact | (alignment.kind == Kind.COMPUTED)), _leading(exact)


def _leading(true: NDArray[np.bool_]) -> int:
    """How many of the first elements are true."""
    return len(true) if true.all() else int(true.argmin())
