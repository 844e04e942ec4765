"""A turn's way, in order.

`tokenise -> find donors -> align -> plan -> load -> move -> compute rows -> generate -> store`

Each stage takes values and returns one; none knows another. This file alone knows their order. What a stage computes
runs on threads: the event loop only waits.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TypeVar

import numpy as np
import torch

from semshare_agents import threads
from semshare_agents.answering import Answer, Answering
from semshare_agents.constrain.constraint import Constraint
from semshare_agents.errors import RegistryError, StoreError
from semshare_agents.idle import Idle
from semshare_agents.match.align import align, align_semantic, unmatched_regions, why_unlike
from semshare_agents.match.facts import GUARDS, guarded
from semshare_agents.match.find import find, find_similar
from semshare_agents.match.matchers import Matcher, along_path
from semshare_agents.match.question import asked
from semshare_agents.match.signature import Signer
from semshare_agents.match.tokens import TokenCodes
from semshare_agents.match.words import TokenTexts
from semshare_agents.messages.cleaning import clean_messages
from semshare_agents.model.generate import Sampler
from semshare_agents.model.loading import LoadedModel
from semshare_agents.model.retained import retained
from semshare_agents.model.rows import BufferPool
from semshare_agents.model.run import RowRun, Run
from semshare_agents.model.stock import StockRun
from semshare_agents.model.text import TextStream
from semshare_agents.model.tokenise import check_length, question_tokens, tokenise_text
from semshare_agents.observe.clock import Clock
from semshare_agents.observe.delays import timed
from semshare_agents.observe.report import computed_again, exact_frontier, make_report, saved
from semshare_agents.registry import Registry
from semshare_agents.request import NO_RECOMPUTE, NO_ROTATION, RANDOM_MAP, ZERO_KV, Request
from semshare_agents.retain import Retention, TailWatch
from semshare_agents.reuse.assemble import assemble, fills, infos
from semshare_agents.reuse.certain import FIRST_SPREADS, LATER_SPREADS, finished, settled, spread_of
from semshare_agents.reuse.cost import CostModel
from semshare_agents.reuse.dial import approximate_share, plan_within
from semshare_agents.reuse.drift import DEFAULTS, Calibration, features
from semshare_agents.reuse.look import gathered, gathering_layers, seen_rows, viewers
from semshare_agents.reuse.plan import PlanSettings, cold_plan, make_plan, used_rows, without
from semshare_agents.reuse.rate import RepairRate
from semshare_agents.reuse.schedule import narrowing
from semshare_agents.reuse.strategies import SelectionStrategy
from semshare_agents.steering import Steering
from semshare_agents.store import Tiers
from semshare_agents.store.base import BlockInfo
from semshare_agents.store.packing import Packing
from semshare_agents.store.tiers import Loaded, Owner
from semshare_agents.values import Alignment, Donor, Ints, Kind, Plan, Report, Reuse, Scope

log = logging.getLogger(__name__)

T = TypeVar("T")

CHANGED = "the model's weights or adapters changed while the prompt was computed"

NOWHERE = Scope(0, "", "", bytes(32))
"""The scope of a turn for which the registry could not be asked; nothing is stored under it."""


@dataclass
class Prefilled:
    """A prompt whose KV is complete, ready to be continued.

    Attributes:
        request: What was asked for, messages cleaned.
        scope: Tenant and model.
        prompt: Token ids, shape `(tokens,)`.
        alignment: Where the KV could come from.
        plan: What was computed.
        run: Holds the KV.
        logits: The last row's, shape `(vocabulary,)`.
        constraint: What the answer is held to; None for nothing.
        room_tokens: How many tokens may be generated.
        report: What was reused.
        clock: Of the call.
        begun: Whether the answer's first piece was handed out.
    """

    request: Request
    scope: Scope
    prompt: Ints
    alignment: Alignment
    plan: Plan
    run: Run
    logits: torch.Tensor
    constraint: Constraint | None
    room_tokens: int
    report: Report
    clock: Clock = field(default_factory=Clock)
    begun: bool = False

    def begins(self) -> None:
        """The answer's first piece is handed out now, or it ends without one: so long did the caller wait."""
        if not self.begun:
            self.begun = True
            stages, elapsed = self.clock.told()
            self.report = replace(self.report, ttft_seconds=elapsed, stages_seconds=stages)


@dataclass
class Turns:
    """Everything the stages need, and their order.

    Attributes:
        model: The model.
        registry: Past turns.
        tiers: Their KV.
        packing: How the tiers keep it.
        cost: Predicts times; None where nothing can be reused anyway.
        strategy: Chooses semantic rows.
        plan_settings: Shares and sizes of plans.
        block_tokens: Size of a block.
        similarity_threshold: Least donor similarity.
        compute: The one thread on which the model runs.
        repair: How much repair decoding carries.
        idle: Knows when nobody waits for the model.
        writing: Held while files of a turn are written or deleted; turns take it in their order.
        unwritten: Blocks whose files could not be written yet, with depth and owner; tried again with the next turn's.
        calibration: Predicts drift.
        matcher: Gives semantically matched tokens their reference tokens.
        retention: What an answer is decoded on; None for all of its prompt's KV.
        retention_int8: Hold that in 8 bits.
        forgets: The newest act of forgetting whose KV is gone here.
        control_tokens: What names of control tokens in messages become: `text` or `tokens`.
        fact_guard: How facts are protected: a name of `GUARDS`, or `auto` for what a request's fidelity asks for.
    """

    model: LoadedModel
    registry: Registry
    tiers: Tiers
    packing: Packing
    cost: CostModel | None
    strategy: SelectionStrategy
    plan_settings: PlanSettings
    block_tokens: int
    similarity_threshold: float
    compute: Executor
    repair: RepairRate
    idle: Idle = field(default_factory=Idle)
    writing: asyncio.Lock = field(default_factory=asyncio.Lock)
    unwritten: dict[str, tuple[BlockInfo, int, Owner]] = field(default_factory=dict)
    calibration: Calibration = DEFAULTS
    matcher: Matcher = along_path
    fact_guard: str = "auto"
    retention: Retention | None = None
    retention_int8: bool = False
    forgets: int = 0
    control_tokens: str = "text"

    def __post_init__(self) -> None:
        support = self.model.support
        # Whoever wants less KV on the device does not want free buffers there either.
        spare = 0 if self.retention else 2
        self.pool = None if support.rows is None else BufferPool(support.rows, spare)
        self.texts = TokenTexts(self.model.tokenizer)
        self.steering = Steering(self.model.tokenizer, self.model.end_tokens, self.control_tokens)
        self._codes: TokenCodes | None = None
        self._signers: dict[bytes, Signer] = {}

    @property
    def kv_fingerprint(self) -> str:
        """Under what KV is kept that the model computes as it is now; looking takes milliseconds."""
        return self.packing.fingerprint(self.model.fingerprint)

    async def scope(self, tenant: str, make: bool = True) -> Scope:
        """A tenant's part of the memory, of the model as it is now.

        Args:
            tenant: The tenant.
            make: Whether it is remembered where it is new.

        Raises:
            RegistryError: the database cannot be used.
        """
        fingerprint = await threads.work(lambda: self.kv_fingerprint)
        return await self.registry.scope(tenant, fingerprint, self.model.name, make=make)

    async def unchanged(self, scope: Scope) -> bool:
        """Whether the model still computes the KV of a scope: its adapters may have been switched meanwhile."""
        return await threads.work(lambda: self.kv_fingerprint) == scope.fingerprint

    async def prefill(self, request: Request, clock: Clock | None = None) -> Prefilled:
        """From messages to the first token's logits.

        Args:
            request: What is asked for.
            clock: Of the call; default: one that begins now.

        Raises:
            PromptError: the messages are malformed or too long, or the answer cannot be held to what is wanted.
        """
        with self.idle.busy():
            return await self._prefill(request, clock or Clock())

    async def _prefill(self, request: Request, clock: Clock) -> Prefilled:
        with clock.stage("tokenise"):
            messages = clean_messages(request.messages)
            request = replace(request, messages=messages)
            if request.raw:
                encoder = bool(self.model.model.config.is_encoder_decoder)
                prompt = await threads.work(tokenise_text, self.model.tokenizer, messages, encoder)
            else:
                prompt = await threads.work(self.steering.prompt, messages, request.want)
            constraint = await threads.work(self.steering.constraint, request.want, prompt)
            room = check_length(len(prompt), request.sampling.max_new_tokens, self.model.context_tokens)
        impossible = self._impossible(request, len(prompt) + room)
        scope, alignment = NOWHERE, Alignment.empty(len(prompt))
        try:
            with clock.stage("find"):
                # What is not to be remembered leaves no name behind either.
                scope = await self.scope(request.tenant, make=request.store)
                await self._drop_forgotten(scope.forgets)
            if impossible is None:
                alignment = await self._matched(scope, request, prompt, clock)
        except RegistryError as e:
            # The memory may fail, an answer may not.
            log.warning("a turn runs cold: %s", e)
            impossible = f"the memory fails: {e}"
        if impossible is None:
            plan = await self._planned(alignment, request, clock)
        else:
            plan = cold_plan(len(prompt), impossible, self._cold(len(prompt)))
        run = self._run(len(prompt) + room)
        try:
            alignment, plan, logits, misses = await self._computed(
                scope, request, prompt, alignment, plan, run, constraint, clock
            )
            if scope is not NOWHERE and not await self.unchanged(scope):
                # KV of before beside rows of after would be neither's.
                alignment, plan = Alignment.empty(len(prompt)), cold_plan(len(prompt), CHANGED, self._cold(len(prompt)))
                scope = await self._scope_or_nowhere(request)
                logits = await self.on_compute(run, run.cold, prompt)
        except BaseException:
            run.close()
            raise
        plan = replace(plan, reason=plan.reason or computed_again(request.reuse, alignment, plan, misses))
        stages, elapsed = clock.told()
        report = make_report(
            alignment,
            plan,
            stages,
            elapsed,
            misses,
            self.model.layers,
            len(plan.rows) - len(plan.required),
        )
        like = None if self.cost is None else self.cost.like_cold(len(prompt))
        report = replace(report, saved=None if self.cost is None else saved(stages, plan.cold, like))
        return Prefilled(request, scope, prompt, alignment, plan, run, logits, constraint, room, report, clock)

    async def _scope_or_nowhere(self, request: Request) -> Scope:
        try:
            return await self.scope(request.tenant, make=request.store)
        except RegistryError as e:
            log.warning("a turn will not be remembered: %s", e)
            return NOWHERE

    async def _drop_forgotten(self, newest: int) -> None:
        """Delete KV that other processes forgot, up to an act of forgetting."""
        if newest > self.forgets:
            keys = await self.registry.forgotten_keys(self.forgets)
            self.forgets = newest
            try:
                await threads.work(self.tiers.forget, keys)
            except StoreError as e:
                log.warning("files of what was forgotten stay until `semshare verify --fix`: %s", e)

    def _impossible(self, request: Request, tokens: int) -> str | None:
        """Why nothing can be reused for this prompt, whatever is stored; None where something might."""
        beyond = self.model.support.beyond(tokens)
        return beyond or ("reuse is off" if request.reuse is Reuse.OFF else None)

    def _cold(self, tokens: int) -> float:
        return self.cost.cold_seconds(tokens) if self.cost is not None else 0.0

    def _run(self, tokens: int) -> Run:
        support = self.model.support
        if support.rows is None or self.pool is None or support.beyond(tokens):
            return StockRun(self.model.model, support.rows)
        return RowRun(support.rows, self.pool, tokens)

    async def _matched(self, scope: Scope, request: Request, prompt: Ints, clock: Clock) -> Alignment:
        """Find donors and align the prompt to them: exact, then moved, then semantic."""
        reuse = request.reuse
        if self.model.support.mover is None and reuse.allows(Reuse.MOVED):
            reuse = Reuse.EXACT
        # A span is worth its while once it is longer than the head that is computed again.
        least = self.plan_settings.head_tokens + self.plan_settings.tail_tokens
        with clock.stage("find"):
            found = await find(self.registry, scope, prompt, self.block_tokens, reuse, least)
        with clock.stage("align"):
            alignment = await threads.work(align, prompt, found, least)
        question = question_tokens(self.model.tokenizer, [dict(m) for m in request.messages])
        regions = unmatched_regions(alignment, question) if reuse.allows(Reuse.SEMANTIC) else []
        similar: list[Donor] = []
        if regions:
            with clock.stage("find"):
                free = np.concatenate([prompt[a:b] for a, b in regions])
                similar = await find_similar(self.registry, scope, self.signer(scope), free)
            with clock.stage("align"):
                alignment = await threads.work(
                    align_semantic,
                    prompt,
                    alignment,
                    regions,
                    similar,
                    self.codes(),
                    self.similarity_threshold,
                    self.matcher,
                )
                if (alignment.kind == Kind.SEMANTIC).any():
                    shares = await threads.work(asked, prompt, question, self.texts)
                    alignment = replace(alignment, asked=shares)
        if reuse.allows(Reuse.SEMANTIC) and not (alignment.kind == Kind.SEMANTIC).any():
            unlike = why_unlike(alignment, regions, similar, self.similarity_threshold)
            alignment = replace(alignment, refused=unlike)
        guard = GUARDS[request.fidelity.like if self.fact_guard == "auto" else self.fact_guard]
        if guard is not None:
            with clock.stage("guard"):
                alignment = await threads.work(guarded, prompt, alignment, question, self.texts, guard)
        return _scrambled(alignment) if RANDOM_MAP in request.ablations else alignment

    def signer(self, scope: Scope) -> Signer:
        """The signatures of a scope."""
        if scope.seed not in self._signers:
            self._signers[scope.seed] = Signer(len(self.model.embeddings), scope.seed)
        return self._signers[scope.seed]

    def codes(self) -> TokenCodes:
        """The LSH codes of the model's tokens."""
        if self._codes is None:
            self._codes = TokenCodes(self.model.embeddings)
        return self._codes

    async def _planned(self, alignment: Alignment, request: Request, clock: Clock) -> Plan:
        cost, settings = self.cost, self.plan_settings
        assert cost is not None
        if NO_RECOMPUTE in request.ablations:
            settings = replace(settings, head_tokens=0, semantic_share=0.0, look_share=0.0)
        layers = self.model.layers

        def plan_of(chosen: PlanSettings) -> Plan:
            plan = make_plan(alignment, chosen, self.strategy, cost, layers, self._only_on_disk)
            if plan.cold:
                return plan
            drift = self.calibration.bound_kl(features(alignment, plan))
            share = approximate_share(alignment, plan, request.sampling.max_new_tokens)
            # An ablation shows what a broken part does to answers, and is not mended.
            spread = spread_of(drift) if chosen.certain and not request.ablations else 0.0
            return replace(plan, drift_kl=drift * share, spread_logits=spread)

        with clock.stage("plan"):
            plan = await threads.work(plan_within, request.fidelity, alignment, settings, plan_of)
        narrowed = self.model.support.reason if request.reuse.allows(Reuse.MOVED) else ""
        return replace(plan, reason=plan.reason or alignment.refused or narrowed)

    def _only_on_disk(self, key: str) -> bool:
        fast = self.tiers.fast
        return fast is None or key not in fast

    async def _computed(
        self,
        scope: Scope,
        request: Request,
        prompt: Ints,
        alignment: Alignment,
        plan: Plan,
        run: Run,
        constraint: Constraint | None,
        clock: Clock,
    ) -> tuple[Alignment, Plan, torch.Tensor, int]:
        """Load, move and compute; blocks that cannot be served are counted and their tokens computed."""
        misses = 0
        while not plan.cold:
            assert isinstance(run, RowRun)
            with clock.stage("load"):
                parts = await threads.work(fills, alignment, used_rows(plan, alignment))
                wanted = infos(parts, scope, alignment)
            with self.tiers.leases.hold([i.key for i in wanted]):
                with clock.stage("load"):
                    owner = Owner(scope.tenant, (request.session or "") if request.store else "")
                    loaded = await threads.work(self.tiers.load, wanted, owner)
                if not loaded.missing:
                    mover = None if NO_ROTATION in request.ablations else self.model.support.mover
                    move = partial(assemble, run.buffer, parts, loaded.kv, alignment, mover)
                    await self.on_compute(run, clock.on_thread("load", move))
                    if ZERO_KV in request.ablations:
                        run.buffer[:, :, :, torch.as_tensor(used_rows(plan, alignment))] = 0
            if not loaded.missing:
                break
            misses += len(loaded.missing)
            log.warning("%d stored blocks could not be served and count as misses", len(loaded.missing))
            await self._drop_missing(loaded)
            alignment = without(alignment, set(loaded.missing))
            plan = await self._planned(alignment, request, clock)
        if plan.cold or not isinstance(run, RowRun):
            if self.cost is not None and (alignment.kind != Kind.COMPUTED).any():
                self.cost.saw_refusal()
            logits = await self.on_compute(run, clock.on_thread("compute", partial(self._all_rows, run, prompt)))
        else:
            sampler = Sampler(request.sampling, prompt, self.model.model.device, constraint)
            rows = partial(self._certain_rows, run, prompt, alignment, plan, sampler)
            plan, logits = await self.on_compute(run, clock.on_thread("compute", rows))
        return alignment, plan, logits, misses

    def _all_rows(self, run: Run, prompt: Ints) -> torch.Tensor:
        """A full prefill, from which the cost model learns."""
        if self.cost is None or not isinstance(run, RowRun):
            return run.cold(prompt)
        took = timed(lambda: run.cold(prompt), self.model.model.device)
        self.cost.saw_cold(len(prompt), took)
        return took.result

    async def _drop_missing(self, loaded: Loaded) -> None:
        """Forget blocks that are gone; those that cannot be read now may come back."""
        try:
            for key, reason in loaded.missing.items():
                if key not in loaded.unreadable:
                    await self.registry.drop_blocks([key], "miss", reason)
                    # Its file may have been finished just then; no row names it any more.
                    await threads.work(self.tiers.forget, [key])
        except (RegistryError, StoreError) as e:
            log.warning("rows or files of missing blocks stay: %s", e)

    def _rows(self, run: RowRun, prompt: Ints, alignment: Alignment, plan: Plan) -> tuple[Plan, torch.Tensor]:
        """Compute a plan's rows, then, where it looks, the rows that the prompt's end looked at and that end again.

        What late looks choose, and that end once more, is left to the first decoding steps.
        """
        looking = viewers(plan.rows, len(prompt))
        layers = gathering_layers(self.model.layers)
        watch = TailWatch(len(prompt) - looking, layers) if plan.looks else None
        exact = exact_frontier(alignment, plan)
        run.semantic, run.hurried = bool((alignment.kind == Kind.SEMANTIC).any()), plan.hurried
        prefill = partial(run.prefill, prompt, plan.rows, exact, narrowing(plan), plan.check_layer, watch)
        took = timed(prefill, self.model.model.device)
        logits = took.result
        if watch is None:
            if self.cost is not None and not plan.layer_shares:
                self.cost.saw_rows(plan.rows, took)
            return plan, logits
        attention, end = gathered(watch.attention()), np.arange(len(prompt) - looking, len(prompt))
        late = seen_rows([look for look in plan.looks if look.late], attention)
        if len(late):
            run.late = np.union1d(late, end)
        seen = seen_rows([look for look in plan.looks if not look.late], attention)
        if not len(seen):
            return plan, logits
        plan = replace(plan, rows=np.union1d(plan.rows, seen), required=np.union1d(plan.required, seen))
        return plan, run.prefill(prompt, np.union1d(seen, end), exact_frontier(alignment, plan))

    def _certain_rows(
        self, run: RowRun, prompt: Ints, alignment: Alignment, plan: Plan, sampler: Sampler
    ) -> tuple[Plan, torch.Tensor]:
        """Compute a plan's rows, and all others where drift could decide which token comes first."""
        plan, logits = self._rows(run, prompt, alignment, plan)
        run.spread_logits, exact = plan.spread_logits, run.exact
        logits = settled(run, sampler, logits, FIRST_SPREADS)
        return (plan if run.exact == exact else finished(plan, exact, len(prompt))), logits

    async def on_compute(self, run: Run, function: Callable[..., T], *arguments: object) -> T:
        """Run a function on the compute thread; when the caller is cancelled, end its forward and wait for that."""
        with self.idle.busy():
            future = asyncio.get_running_loop().run_in_executor(self.compute, lambda: function(*arguments))
            try:
                return await asyncio.shield(future)
            except asyncio.CancelledError:
                run.stop.set()
                # Some frameworks cancel again at every step; the buffer may not be freed under a running forward.
                while not future.done():
                    with suppress(asyncio.CancelledError):
                        await asyncio.wait([future])
                if not future.cancelled():
                    future.exception()
                raise

    async def generate(self, prefilled: Prefilled, answer: Answer) -> AsyncGenerator[str]:
        """Draw tokens until the answer ends; yields text as it becomes certain and fills `answer`."""
        request = prefilled.request
        sampler = Sampler(request.sampling, prefilled.prompt, prefilled.logits.device, prefilled.constraint)
        text = TextStream(self.model.tokenizer, request.sampling.stop, self.steering.marks(request.want))
        answering = Answering(answer, sampler, text, self.model.end_tokens, prefilled.room_tokens)
        logits, clock = prefilled.logits, prefilled.clock
        while True:
            piece = await self.on_compute(prefilled.run, clock.on_thread("first", partial(answering.draw, logits)))
            # A piece is handed out before the next token's row is computed.
            if piece:
                yield piece
            if answer.finish_reason:
                return
            run = prefilled.run
            step = partial(self.certain_step, run, answer.tokens[-1], sampler)
            logits = await self.on_compute(run, clock.on_thread("first", step))

    async def retain(self, prefilled: Prefilled) -> None:
        """Go on with the part of the KV that retention keeps; the rest is given back. Store the KV first."""
        run, rows = prefilled.run, self.model.support.rows
        if self.retention is None or rows is None or not isinstance(run, RowRun):
            return
        prefilled.run = await self.on_compute(run, retained, rows, run, self.retention, self.retention_int8)
        run.close()

    def certain_step(self, run: Run, token: int, sampler: Sampler) -> torch.Tensor:
        """A step, and what else has to be computed before `sampler` may draw the next token from its logits."""
        return settled(run, sampler, self.step(run, token), LATER_SPREADS)

    def step(self, run: Run, token: int) -> torch.Tensor:
        """Compute a token's row, and what else a step carries; returns the token's logits `(vocabulary,)`."""
        if not isinstance(run, RowRun):
            return run.step(token)
        return run.step(token, self.repair.beside_a_step(run.length, run.exact, run.semantic, self.cost))


def _scrambled(alignment: Alignment) -> Alignment:
    """The random-map ablation: every reused token takes the KV of a random token of its donor."""
    rng = np.random.default_rng(0)
    source = alignment.source.copy()
    for index, donor in enumerate(alignment.donors):
        mine = np.flatnonzero(alignment.donor == index)
        source[mine] = rng.choice(np.flatnonzero(donor.stored()), len(mine))
    return replace(alignment, source=source)
