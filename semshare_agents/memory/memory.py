"""Past turns: rows of the registry and KV of the tiers, together.

A turn's new blocks are copied into the fastest tier and registered in one transaction; their files follow in the
background, and only a file that is safely there makes its row visible to other processes. Where there is no fast tier,
files come first.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, nullcontext
from threading import Event

from semshare_agents.concurrency import threads
from semshare_agents.concurrency.idle import Idle
from semshare_agents.engine import Within
from semshare_agents.errors import RegistryError, SemShareError, StoreError
from semshare_agents.memory import pins
from semshare_agents.memory.blocks import Blocks, fresh, unwritten
from semshare_agents.memory.evictions import evictions
from semshare_agents.memory.put import put_blocks
from semshare_agents.memory.spec import BlockSpec
from semshare_agents.model.run import RowRun
from semshare_agents.registry import Forgotten, NewBlock, NewTurn, Pin, Registry
from semshare_agents.settings import Settings
from semshare_agents.store.base import BlockInfo
from semshare_agents.store.heap import give_back
from semshare_agents.store.loaded import Loaded, Owner, Waiting
from semshare_agents.store.tiers import Tiers
from semshare_agents.values import Scope

log = logging.getLogger(__name__)

Replaced = Sequence[tuple[str, str]]
"""Pairs of keys `(short block, longer block that takes its place)`."""


class Memory:
    """The only one that touches rows and KV together. All methods belong on the event loop's thread.

    Args:
        registry: Past turns.
        tiers: Their KV.
        spec: Whose KV is kept, and how.
        idle: Knows which calls are under way, which may have found what is replaced.
    """

    def __init__(self, registry: Registry, tiers: Tiers, spec: BlockSpec, idle: Idle):
        self.registry = registry
        self.tiers = tiers
        self.spec = spec
        self._idle = idle
        self._blocks = Blocks(registry, tiers.forget)
        # Held while files of a turn are written or deleted; turns take it in their order.
        self._files = asyncio.Lock()
        # Blocks whose files could not be written yet; tried again with the next turn's.
        self._delayed: dict[str, Waiting] = {}
        self._writes: set[asyncio.Task[None]] = set()
        # The newest act of forgetting whose KV is gone here.
        self._forgets = 0

    # --- finding and loading

    async def fingerprint(self) -> str:
        """Under what KV is kept that the model computes as it is now."""
        return await threads.work(lambda: self.spec.fingerprint)

    async def scope(self, tenant: str, make: bool = True, fingerprint: str | None = None) -> Scope:
        """A tenant's part of the memory, of the model as it is now; what other processes forgot is gone here too.

        Args:
            tenant: The tenant.
            make: Whether it is remembered where it is new.
            fingerprint: Of the model as it is now; None to look.

        Raises:
            RegistryError: the database cannot be used.
        """
        found = await self.fingerprint() if fingerprint is None else fingerprint
        scope = await self.registry.scope(tenant, found, self.spec.model.name, make=make)
        if scope.forgets > self._forgets:
            keys = await self.registry.forgotten_keys(self._forgets)
            self._forgets = scope.forgets
            try:
                await self._blocks.delete(keys)
            except StoreError as e:
                log.warning("files of what was forgotten stay until `semshare verify --fix`: %s", e)
        return scope

    async def unchanged(self, scope: Scope) -> bool:
        """Whether the model still computes the KV of a scope: its adapters may have been switched meanwhile."""
        return await self.fingerprint() == scope.fingerprint

    @asynccontextmanager
    async def loaded(
        self, wanted: Sequence[BlockInfo], owner: Owner, within: Within = nullcontext
    ) -> AsyncIterator[Loaded]:
        """Blocks, which stay as long as this lasts; those that are gone lose their rows afterwards.

        Args:
            wanted: The blocks, with what each is taken for.
            owner: Who uses them.
            within: Entered around reading them.
        """
        with self.tiers.leases.hold([info.key for info in wanted]):
            with within():
                found = await threads.work(self.tiers.load, wanted, owner)
            yield found
        for key, reason in found.missing.items():
            # What cannot be read now may come back.
            if key not in found.unreadable:
                try:
                    # Its file may have been finished just then; no row names it any more.
                    await self._blocks.drop([key], "miss", reason)
                except (RegistryError, StoreError) as e:
                    log.warning("the row or the file of a missing block stays: %s", e)

    def only_on_disk(self, key: str) -> bool:
        """Whether a block would have to come from a slow tier."""
        fast = self.tiers.fast
        return fast is None or key not in fast

    # --- storing

    async def put(self, scope: Scope, run: RowRun, blocks: Sequence[NewBlock], owner: Owner) -> tuple[NewBlock, ...]:
        """Copy new blocks out of a run into the fastest tier with room; the registry does not know of them yet.

        Where the RAM's budget is full of blocks that wait for a slow disk, they are written at once, and the turn
        waits. What a caller who goes away meanwhile leaves behind is removed.

        Args:
            scope: Tenant and model.
            run: Has their KV.
            blocks: What to keep; those that are known already stay as they are.
            owner: Whose they are.

        Returns:
            The blocks that are kept.

        Raises:
            RegistryError: the database cannot be used.
            StoreError: the tiers fail; nothing is kept then.
        """
        await pins.refresh(self.registry, self.tiers)
        stop = Event()
        putting = asyncio.ensure_future(
            threads.store(put_blocks, self.tiers, self.spec.packing, scope, run, blocks, owner, stop.is_set)
        )
        try:
            kept = await asyncio.shield(putting)
            await self.settle()
        except BaseException:
            stop.set()
            putting.add_done_callback(self._remove_unused)
            raise
        return tuple(kept)

    def _remove_unused(self, putting: asyncio.Future[list[NewBlock]]) -> None:
        """Remove what nobody will register; what was not kept to the end has cleaned up after itself."""
        if not putting.cancelled() and putting.exception() is None:
            threads.store_later(self.tiers.forget, fresh(putting.result()))

    async def commit(self, scope: Scope, turn: NewTurn, turn_id: int | None = None) -> int:
        """Register a turn whose blocks are kept, see `Registry.add_turn`. Where that fails they are to be discarded.

        Raises:
            RegistryError: the database cannot be written.
        """
        turn_id = await self.registry.add_turn(scope, turn, turn_id)
        await self._drop_taken(turn.blocks)
        return turn_id

    async def discard(self, blocks: Sequence[NewBlock]) -> None:
        """Remove blocks that were kept and will not be registered: KV that no row names would stay for ever."""
        await self._blocks.delete(fresh(blocks))

    async def replace(
        self, scope: Scope, turn_id: int, run: RowRun, blocks: Sequence[NewBlock], reached: int, owner: Owner
    ) -> bool:
        """Let exact blocks take the place of a turn's approximate ones.

        Args:
            scope: Tenant and model.
            turn_id: The turn.
            run: Has the KV of all its tokens.
            blocks: The exact blocks.
            reached: The turn's exact frontier from now on.
            owner: Whose they are.

        Returns:
            Whether there was room for them; else everything stays as it was.

        Raises:
            RegistryError: the database cannot be used.
            StoreError: the tiers fail.
        """
        kept = await self.put(scope, run, blocks, owner)
        if len(kept) < len(blocks):
            await self.discard(kept)
            return False
        try:
            unused = await self.registry.repaired(scope, turn_id, kept, reached, finished=reached == run.length)
        except BaseException:
            await self.discard(kept)
            raise
        await self._drop_taken(kept)
        await self.write(scope.fingerprint, kept, owner)
        await self._retire(unused)
        return True

    async def _drop_taken(self, blocks: Sequence[NewBlock]) -> None:
        """Forget blocks whose files went before their rows were there: who let them go could not know the rows."""
        files = [block.key for block in blocks if block.durable and not block.known]
        if files:
            taken = await threads.store(self.tiers.taken, files)
            await self._blocks.drop(taken, "evict", "no room on disk")

    def write_later(self, scope: Scope, blocks: Sequence[NewBlock], owner: Owner, replaced: Replaced = ()) -> None:
        """`write` in the background; `flush` waits for it."""
        task = asyncio.create_task(self._write_or_warn(scope.fingerprint, blocks, owner, replaced))
        self._writes.add(task)
        task.add_done_callback(self._writes.discard)

    async def _write_or_warn(
        self, fingerprint: str, blocks: Sequence[NewBlock], owner: Owner, replaced: Replaced
    ) -> None:
        try:
            await self.write(fingerprint, blocks, owner, replaced)
        except SemShareError as e:
            log.warning("a turn stays in memory only: %s", e)

    async def write(self, fingerprint: str, blocks: Sequence[NewBlock], owner: Owner, replaced: Replaced = ()) -> None:
        """Write registered blocks that only RAM has, let every process see them, and drop the blocks they replace.

        Args:
            fingerprint: Under which they are kept.
            blocks: A turn's blocks.
            owner: Whose they are.
            replaced: What some of them take the place of.

        Raises:
            RegistryError: the database cannot be written.
            StoreError: the tiers fail.
        """
        new, present = unwritten(blocks), {block.key for block in blocks}
        try:
            async with self._files:
                await self._write_files(fingerprint, new, owner)
                pairs = [(old, long) for old, long in replaced if long in present]
                unused = [old for old, long in pairs if await self.registry.supersede(old, long)]
        finally:
            self.tiers.written([block.key for block in new])
            await threads.store(give_back)
        await self._retire(unused)

    async def _write_files(self, fingerprint: str, new: Sequence[NewBlock], owner: Owner) -> None:
        waiting = {**self._delayed, **{b.key: (BlockInfo(b.key, fingerprint, b.length), b.start, owner) for b in new}}
        if self.tiers.durable is not None and waiting:
            with self.tiers.leases.hold([block.key for block in new]):
                written, self._delayed = await threads.store(self.tiers.write, waiting)
            # Room may have been needed before a file was written; its row is gone then.
            await self._blocks.delete(await self.registry.made_durable(written))
        await threads.store(self.tiers.sweep)
        await self.settle()
        # Large turns evict their own blocks from RAM; those that the disk refuses too are nowhere.
        nowhere = [block.key for block in new if not self.tiers.anywhere(block.key)]
        await self._blocks.drop(nowhere, "evict", "no tier had room")

    async def _retire(self, keys: Sequence[str]) -> None:
        """Remove KV that no row names any more, once the calls that may still have found it are over."""
        if keys:
            await self._idle.drained()
            # A file that is still being written would outlive its row.
            async with self._files:
                await self._blocks.delete(keys)

    async def settle(self) -> None:
        """Put on record what tiers let go. Rows of what is nowhere go, and files of it that were finished late.

        Raises:
            RegistryError: the database cannot be written.
            StoreError: a file cannot be removed.
        """
        found, durable = evictions(self.tiers, self.tiers.evictions()), self.tiers.durable
        for why, keys in found.gone.items():
            await self._blocks.drop(keys, "evict", why)
        for why, tokens in found.demoted.items():
            on_disk = [key for key in tokens if durable is not None and key in durable]
            await self.registry.demoted(on_disk, sum(tokens.values()), why)

    @property
    def writes(self) -> frozenset[asyncio.Task[None]]:
        """Writes under way, one a turn."""
        return frozenset(self._writes)

    async def flush(self) -> None:
        """Wait until everything stored so far is on disk."""
        while self._writes:
            await asyncio.wait(self._writes)

    # --- forgetting and pinning

    async def forget(self, tenant: str, *, session: str | None, turn_id: int | None, dry_run: bool) -> Forgotten:
        """Remove a turn, a session or all of a tenant, rows and KV; errors as in `Registry.forget` and `StoreError`."""
        found = await self.registry.forget(tenant, session=session, turn_id=turn_id, dry_run=dry_run)
        if not dry_run:
            # A file that is still being written would outlive its row.
            async with self._files:
                await self._blocks.delete(found.keys)
            await self.registry.erase()
        return found

    async def pin(
        self, settings: Settings, tenant: str, *, session: str | None, turn: int | None, seconds: float | None
    ) -> Pin:
        """Pin a session or a turn; see `semshare_agents.memory.pins.pin`."""
        made = await pins.pin(
            self.registry,
            settings,
            self.tiers.slowest.size_of,
            tenant=tenant,
            session=session,
            turn=turn,
            seconds=seconds,
        )
        await pins.refresh(self.registry, self.tiers)
        return made

    async def unpin(self, tenant: str, *, session: str | None, turn: int | None) -> bool:
        """Let the KV of a turn or a session be evicted again; whether it was pinned."""
        pins.one_of(session, turn)
        ended = await self.registry.unpin(tenant, session=session, turn_id=turn)
        await pins.refresh(self.registry, self.tiers)
        return ended

    # --- opening and closing

    async def aclose(self) -> None:
        """Finish writing, put on record what tiers let go last, and close registry and tiers."""
        await self.flush()
        try:
            await threads.store(self.tiers.settle)
            await self.settle()
        except (RegistryError, StoreError) as e:
            log.warning("rows of blocks that are gone stay until they are missed: %s", e)
        await self.registry.close()
        await threads.store(self.tiers.close)
