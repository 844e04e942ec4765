"""The async adapter: sessions, generate, stream."""

from __future__ import annotations

import asyncio
import fcntl
import gc
import logging
import time
from collections.abc import AsyncGenerator, Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import replace
from typing import IO, Any, Self

from semshare_agents import keys, pinning, threads
from semshare_agents.answering import Answer
from semshare_agents.errors import (
    ClosedError,
    ConfigurationError,
    RegistryError,
    SemShareError,
    StoreError,
)
from semshare_agents.evict import PolicyOptions, make_policy
from semshare_agents.guard import Guard, GuardSettings
from semshare_agents.match.matchers import make_matcher
from semshare_agents.model.loading import LoadedModel, load
from semshare_agents.observe.clock import Clock
from semshare_agents.observe.observers import Observer, TurnLog, TurnSeen
from semshare_agents.observe.reader import Reader
from semshare_agents.observe.tracing import Tracing
from semshare_agents.options import request_of, said, tenant_of
from semshare_agents.registry import DriftSample, Forgotten, Pin, Registry
from semshare_agents.remeasure import Remeasurer
from semshare_agents.remember import Kept, keep, make_durable, remember, settle_departures
from semshare_agents.repair import Job, Repairer
from semshare_agents.retain import Retention
from semshare_agents.reuse.cost import CostModel
from semshare_agents.reuse.drift import calibration_for
from semshare_agents.reuse.measure import measured, setting_of
from semshare_agents.reuse.plan import PlanSettings
from semshare_agents.reuse.rate import RepairRate
from semshare_agents.reuse.strategies import make_strategy
from semshare_agents.sealing import make_sealer
from semshare_agents.session import Session, whole
from semshare_agents.settings import Settings, load_settings, unknown_variables
from semshare_agents.starting import announce, clean, hold_to_limits, make_tiers
from semshare_agents.store import Tiers
from semshare_agents.store.packing import make_packing
from semshare_agents.store.tiers import Leases
from semshare_agents.tools.calls import CallStream
from semshare_agents.turn import Prefilled, Turns
from semshare_agents.values import CallPart, Generation, Messages, Piece, Reuse, ToolCall, Usage

log = logging.getLogger(__name__)

Progress = Callable[[str], None]


class SemShareLLM:
    """A causal language model with a memory made of KV.

    Open it with ``async with SemShareLLM.open() as llm`` or ``llm = await SemShareLLM.open()`` followed by `aclose`.
    One instance serves any number of concurrent calls from one event loop.
    """

    def __init__(self, settings: Settings, model: LoadedModel | None = None, progress: Progress | None = None):
        self.settings = settings
        self._given = model
        self._progress = progress or (lambda _: None)
        self._compute = ThreadPoolExecutor(1, thread_name_prefix="semshare-compute")
        self._background: set[asyncio.Task[None]] = set()
        self._turns: Turns | None = None
        self._repairer: Repairer | None = None
        self._guard: Guard | None = None
        self._remeasurer: Remeasurer | None = None
        self._alive: IO[bytes] | None = None
        self._closed = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self.observers: list[Observer] = [TurnLog(settings.log_text), *([Tracing()] if settings.tracing else [])]

    @classmethod
    def open(
        cls, *, loaded: LoadedModel | None = None, progress: Progress | None = None, **settings: Any
    ) -> SemShareLLM:
        """An adapter that starts when it is awaited or entered.

        Args:
            loaded: A model that is in memory already; it wins over the `model` setting.
            progress: Called with one line at each slow step of starting.
            settings: Overrides of `semshare_agents.settings.Settings`.

        Raises:
            ConfigurationError: a setting is not allowed.
        """
        return cls(load_settings(**settings), loaded, progress)

    def __await__(self) -> Generator[Any, None, SemShareLLM]:
        return self._start().__await__()

    async def __aenter__(self) -> Self:
        await self._start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    # --- life

    async def _start(self) -> SemShareLLM:
        if self._turns is not None or self._closed:
            return self
        self._loop = asyncio.get_running_loop()
        settings = self.settings
        for name, nearest in unknown_variables().items():
            log.warning("%s is no setting and changes nothing%s", name, f": {nearest}?" if nearest else "")
        matcher = make_matcher(settings.matching)
        strategy = make_strategy(settings.strategy)
        options = PolicyOptions(settings.ttl_seconds, moved=settings.reuse.allows(Reuse.MOVED))
        policies = {tier: make_policy(name, options) for tier, name in settings.evictions.items()}
        leases, packing, sealer = Leases(), make_packing(settings.kv_codec), make_sealer(settings.encryption_keys)
        tiers = await threads.work(lambda: Tiers(make_tiers(settings, packing, policies, leases, sealer), leases))
        try:
            self._alive, alone = alive, _ = await threads.work(announce, settings.home)
            names_key = await threads.work(keys.names_key, settings.home, settings.names_key)
            registry = await Registry.open(
                settings.registry_url,
                timeout_seconds=settings.database_timeout_seconds,
                upgrade=alone and settings.registry_url.startswith("sqlite"),
                event_rows=settings.event_rows,
                names_key=names_key,
                pools=settings.pools,
                sealer=sealer,
            )
            try:
                await clean(registry, tiers, alone)
                fcntl.flock(alive, fcntl.LOCK_SH)
                model = self._given or await self._on_compute(self._load)
                cost = await self._on_compute(self._measure, model)
                if cost is not None:
                    tiers.seconds, tiers.saw_disk = cost.block_seconds, cost.saw_disk
                await hold_to_limits(registry, tiers, settings)
                calibration = await threads.work(calibration_for, settings.home, model.fingerprint)
            except BaseException:
                await registry.close()
                raise
        except BaseException:
            tiers.close()
            self._compute.shutdown(wait=False)
            if self._alive is not None:
                self._alive.close()
            raise
        self._turns = Turns(
            model=model,
            registry=registry,
            tiers=tiers,
            packing=packing,
            cost=cost,
            strategy=strategy,
            plan_settings=PlanSettings(
                settings.head_tokens,
                settings.tail_tokens,
                settings.semantic_share,
                # A late look needs the whole KV, of which retention keeps a part.
                0.0 if settings.look_late and settings.retention != "off" else settings.look_share,
                settings.look_late,
                settings.min_gain,
                # Hurrying needs the whole KV too, and who says how much a step repairs means it.
                may_hurry=settings.retention == "off" and settings.repair_rows is None,
            ),
            block_tokens=settings.block_tokens,
            similarity_threshold=settings.similarity_threshold,
            compute=self._compute,
            repair=RepairRate(settings.repair_rows, settings.repair_slowdown, settings.repair_slowdown_semantic),
            calibration=calibration,
            matcher=matcher,
            fact_guard=settings.fact_guard,
            retention=None if settings.retention == "off" else Retention(settings.retention, settings.retention_share),
            retention_int8=settings.retention_int8,
            control_tokens=settings.control_tokens,
        )
        if settings.repair_idle:
            self._repairer = Repairer(self._turns)
        rows = model.support.rows
        if cost is not None and rows is not None and settings.measure_idle:
            self._remeasurer = Remeasurer(self._turns, cost, setting_of(rows), settings.home)
            self._remeasurer.check()
        self._guard = Guard(
            self._turns,
            GuardSettings(settings.guard_share, settings.guard_kl, settings.guard_window, settings.guard_probe_turns),
            self._repaired,
            settings.guard_seed,
            self._measured,
        )
        return self

    def _measured(self, sample: DriftSample) -> None:
        for observer in self.observers:
            observer.drift(sample)

    async def _repaired(self) -> None:
        if self._repairer is not None:
            await self._repairer.settle()

    def _load(self) -> LoadedModel:
        import torch

        settings = self.settings
        if settings.threads is not None:
            torch.set_num_threads(settings.threads)
        self._progress("loading the model")
        model = load(settings.model, settings.home, settings.device, settings.dtype, self._progress)
        # A full collection that walks the libraries' objects keeps every thread waiting for a quarter of a second.
        gc.collect()
        gc.freeze()
        return model

    def _measure(self, model: LoadedModel) -> CostModel | None:
        rows = model.support.rows
        if rows is None:
            return None
        self._progress("measuring this machine's speed")
        found = measured(rows, model.context_tokens, model.fingerprint, self.settings.home, model.name)
        return CostModel(found, rows.token_bytes)

    async def aclose(self) -> None:
        """Finish writing what was stored, then close everything. Closing twice is fine."""
        if self._closed:
            return
        self._closed = True
        if self._remeasurer is not None:
            await self._remeasurer.aclose()
        if self._repairer is not None:
            await self._repairer.aclose()
        if self._guard is not None:
            await self._guard.aclose()
        await self.flush()
        if self._turns is not None:
            await self._settled(self._turns)
            await self._turns.registry.close()
            await threads.store(self._turns.tiers.close)
        await threads.work(self._compute.shutdown)
        if self._alive is not None:
            await threads.work(self._alive.close)
        if self._given is None:
            gc.unfreeze()

    @staticmethod
    async def _settled(turns: Turns) -> None:
        """Rows of what tiers let go last, when blocks moved up or down, go with their files."""
        try:
            await threads.store(turns.tiers.settle)
            await settle_departures(turns)
        except (RegistryError, StoreError) as e:
            log.warning("rows of blocks that are gone stay until they are missed: %s", e)

    async def flush(self) -> None:
        """Wait until everything stored so far is on disk."""
        while self._background:
            await asyncio.wait(self._background)

    async def settle(self) -> None:
        """Wait until approximate turns are repaired and sampled ones measured, and everything stored is on disk."""
        await self._repaired()
        if self._guard is not None:
            await self._guard.settle()
        await self.flush()

    @property
    def turns(self) -> Turns:
        """The stages and what they need.

        Raises:
            ClosedError: the adapter is closed or was never started.
        """
        if self._closed or self._turns is None:
            raise ClosedError("this SemShareLLM is closed or was not started: use `async with SemShareLLM.open()`")
        return self._turns

    @property
    def reader(self) -> Reader:
        """What may be read of it: the model, the tiers, past turns, token counts.

        Raises:
            ClosedError: the adapter is closed or was never started.
        """
        turns = self.turns
        return Reader(turns.model, turns.tiers.tiers, turns.registry, turns.steering)

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop that it serves.

        Raises:
            ClosedError: the adapter was never started.
        """
        if self._loop is None:
            raise ClosedError("this SemShareLLM was not started: use `async with SemShareLLM.open()`")
        return self._loop

    async def _on_compute(self, function: Callable[..., Any], *arguments: object) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._compute, lambda: function(*arguments))

    # --- use

    def session(self, name: str, *, tenant: str | None = None, system: str | None = None, **defaults: Any) -> Session:
        """A conversation whose history is kept in the registry.

        Args:
            name: Its name; the same name goes on where it left off, also in a later process.
            tenant: Whose memory it uses; default: the setting.
            system: System prompt; it may change from one process to the next.
            defaults: Keyword arguments of `generate` for all its turns.
        """
        if not isinstance(name, str) or not name:
            raise ConfigurationError(f"a session needs a name, not {name!r}")
        return Session(self, name, tenant_of(self.settings, tenant), system, said(defaults))

    async def generate(self, messages: Messages, **options: Any) -> Generation:
        """Answer a message list.

        Args:
            messages: `{"role", "content"}` mappings.
            options: `tenant`, `session`, `reuse` (`off`, `exact`, `moved`, `semantic`), `fidelity` (`auto`, `strict`,
                `balanced`, `fast` or a mean KL in nats), `tools` (in OpenAI's form), `tool_choice` (`auto`, `none`,
                `required` or a tool's name), `parallel_tool_calls`, `response_schema` (a JSON schema that the answer
                keeps to; `{"type": "object"}` for any JSON object), `store`, `raw` (the one message's text is the
                prompt, without a chat template), `sampling` or the fields of `semshare_agents.values.Sampling` by name.

        Raises:
            PromptError: messages, tools or schema are malformed, or the messages are too long for the model.
            ConfigurationError: an option is wrong.
            ClosedError: the adapter is closed.
        """
        return await whole(self.stream(messages, **options))

    def stream(self, messages: Messages, *, clock: Clock | None = None, **options: Any) -> AsyncGenerator[Piece]:
        """Answer a message list piece by piece; the last piece carries the whole `Generation`.

        Closing the iterator ends the computation and frees everything it held. Options and errors as in `generate`.

        Args:
            messages: As in `generate`.
            clock: Of whoever has waited already, in a queue say; times to the first token count from its beginning.
            options: As in `generate`.
        """
        return self._stream(messages, clock or Clock(), options)

    async def _stream(self, messages: Messages, clock: Clock, options: dict[str, Any]) -> AsyncGenerator[Piece]:
        turns, request = self.turns, request_of(self.settings, messages, options)
        guard = self._guard
        assert guard is not None
        with clock.stage("admit"):
            admitted = await guard.admit(request)
        prefilled = await turns.prefill(admitted.request, clock)
        answer = guard.watched(admitted, prefilled)
        parted = turns.steering.calls(request.want, prefilled.prompt)
        content = ""
        kept: Kept | None = None
        turn_id: int | None = None
        try:
            async with aclosing(turns.generate(prefilled, answer)) as texts:
                async for text in texts:
                    piece = Piece(text) if parted is None else Piece(*_parted(parted, text))
                    content += piece.text
                    if piece.text or piece.tool_calls:
                        prefilled.begins()
                        yield piece
                    if turns.retention is not None and kept is None:
                        # The whole KV is gone after this: what is to be stored has to be stored now.
                        kept = await keep(turns, prefilled) if request.store else Kept()
                        await turns.retain(prefilled)
            if parted is not None and (rest := parted.finish()):
                content += rest
                prefilled.begins()
                yield Piece(rest)
            prefilled.begins()
            turn_id = await self._store(turns, prefilled, answer, kept) if request.store else None
        finally:
            prefilled.run.close()
            if kept is not None and turn_id is None:
                await threads.store(turns.tiers.forget, kept.fresh)
        generation = _generation(prefilled, answer, turn_id, content, () if parted is None else parted.calls)
        seen = TurnSeen(turns.model.name, prefilled.request, generation, clock.began_at, time.time())
        for observer in self.observers:
            observer.turn(seen)
        if self._remeasurer is not None:
            self._remeasurer.check()
        yield Piece("", generation)

    async def forget(
        self,
        *,
        turn: int | None = None,
        session: str | None = None,
        tenant: str | None = None,
        dry_run: bool = False,
    ) -> Forgotten:
        """Remove a turn, a session, or with `tenant` alone all of a tenant: text, names and KV, in every tier.

        Turns that go on from a removed one hold its text as their history and go too. Turns under way are answered,
        not remembered. Returns once nothing is left in this process and in the files.

        Args:
            turn: The turn's id, as reports give it.
            session: The session's name.
            tenant: Whose they are; default for a turn or a session: the setting.
            dry_run: Only say what would go along, with counts and bytes.

        Raises:
            ConfigurationError: nothing, or both a turn and a session are given.
            NotStoredError: it is not there, and nothing was removed; the message has the nearest names.
            RegistryError: the database fails.
            StoreError: a file cannot be removed; `semshare verify --fix` removes what is left.
        """
        if (turn is None and session is None and tenant is None) or (turn is not None and session is not None):
            raise ConfigurationError("say what to forget: turn=, session= or, for all of a tenant, tenant= alone")
        turns = self.turns
        whose = tenant_of(self.settings, tenant)
        found = await turns.registry.forget(whose, session=session, turn_id=turn, dry_run=dry_run)
        if dry_run:
            return found
        for idle in (self._repairer, self._guard):
            if idle is not None:
                idle.give_up(found.turn_ids)
        # A file that is still being written would outlive its row.
        async with turns.writing:
            await threads.store(turns.tiers.forget, found.keys)
        await turns.registry.erase()
        return found

    async def pin(
        self,
        *,
        turn: int | None = None,
        session: str | None = None,
        tenant: str | None = None,
        seconds: float | None = None,
    ) -> Pin:
        """Keep the KV of a turn, or of a session and the turns that it will have, from being evicted.

        What is pinned already is pinned anew.

        Args:
            turn: The turn's id, as reports give it.
            session: The session's name.
            tenant: Whose; default: the setting.
            seconds: For how long; None: until it is unpinned or forgotten.

        Raises:
            ConfigurationError: not one of turn and session is given, or the time is no positive number.
            PinError: it is not stored, or all that is pinned would not fit a quota or a budget.
            RegistryError: the database fails.
        """
        turns = self.turns
        size_of = turns.tiers.slowest.size_of
        made = await pinning.pin(
            turns.registry, self.settings, size_of, tenant=tenant, session=session, turn=turn, seconds=seconds
        )
        await pinning.refresh(turns.registry, turns.tiers)
        return made

    async def unpin(self, *, turn: int | None = None, session: str | None = None, tenant: str | None = None) -> bool:
        """Let the KV of a turn or a session be evicted again; whether it was pinned.

        Raises:
            ConfigurationError: not one of turn and session is given.
            NotStoredError: it is not there.
            RegistryError: the database fails.
        """
        turns = self.turns
        pinning.one_of(session, turn)
        whose = tenant_of(self.settings, tenant)
        ended = await turns.registry.unpin(whose, session=session, turn_id=turn)
        await pinning.refresh(turns.registry, turns.tiers)
        return ended

    async def pins(self, *, tenant: str | None = None) -> list[Pin]:
        """What of a tenant is pinned, oldest first; default: the setting's tenant."""
        return await self.turns.registry.pins(tenant_of(self.settings, tenant))

    async def _store(self, turns: Turns, prefilled: Prefilled, answer: Answer, kept: Kept | None) -> int | None:
        """Remember a turn; its answer stands even where that fails."""
        try:
            if not await turns.unchanged(prefilled.scope):
                # Its KV is of weights or adapters that are no longer the scope's: the text alone is remembered.
                await threads.store(turns.tiers.forget, [] if kept is None else kept.fresh)
                kept = Kept()
            kept = kept or await keep(turns, prefilled)
            try:
                stored = await remember(turns, prefilled, answer, kept)
            except BaseException:
                # KV that no row names would stay for ever.
                await threads.store(turns.tiers.forget, kept.fresh)
                raise
        except SemShareError as e:
            log.warning("a turn is not remembered: %s", e)
            return None
        task = asyncio.create_task(self._write(turns, prefilled.scope.fingerprint, stored))
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        if self._repairer is not None and stored.repairable:
            self._repairer.add(Job(prefilled.scope, stored.turn_id, prefilled.request.session))
        if self._guard is not None and answer.logits:
            self._guard.add(prefilled, answer, stored.turn_id)
        return stored.turn_id

    @staticmethod
    async def _write(turns: Turns, fingerprint: str, stored: Any) -> None:
        try:
            await make_durable(turns, fingerprint, stored)
        except SemShareError as e:
            log.warning("a turn stays in memory only: %s", e)


def _parted(parted: CallStream, text: str) -> tuple[str, None, tuple[CallPart, ...]]:
    content, parts = parted.push(text)
    return content, None, parts


def _generation(
    prefilled: Prefilled, answer: Answer, turn_id: int | None, content: str, calls: tuple[ToolCall, ...]
) -> Generation:
    report = replace(prefilled.report, turn_id=turn_id)
    usage = Usage(len(prefilled.prompt), len(answer.tokens), report.tokens["exact"])
    called = any(call.whole for call in calls) and answer.finish_reason == "stop"
    reason = "tool_calls" if called else answer.finish_reason
    return Generation(content, tuple(answer.tokens), reason, usage, report, calls, answer.text)
