"""A turn's whole life, in order.

`tokenise -> match -> plan -> load -> compute -> decode -> commit`

Each stage takes values and returns one; none knows another. This file alone knows their order. What a stage computes
runs on threads: the event loop only waits.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch

from semshare_agents.concurrency import threads
from semshare_agents.engine import Engine
from semshare_agents.engine.engine import Within
from semshare_agents.errors import RegistryError, SemShareError
from semshare_agents.memory import Memory
from semshare_agents.messages.cleaning import clean_messages
from semshare_agents.model.generate import Sampler
from semshare_agents.model.loading import LoadedModel
from semshare_agents.model.run import RowRun, Run, Step
from semshare_agents.model.runs import Runs
from semshare_agents.model.text import TextStream
from semshare_agents.model.tokenise import check_length, tokenise_text
from semshare_agents.observe.observers import TurnSeen
from semshare_agents.observe.report import computed_again, make_report, saved
from semshare_agents.registry import NewTurn
from semshare_agents.request.output import OutputControl
from semshare_agents.request.request import Request
from semshare_agents.retain import Retention
from semshare_agents.retain.run import retained
from semshare_agents.retain.watch import TailWatch
from semshare_agents.reuse.certain import FIRST_SPREADS, LATER_SPREADS, finished, uncertain
from semshare_agents.reuse.kinds import exact_frontier, unchanged
from semshare_agents.reuse.look import gathered, gathering_layers, seen_rows, viewers
from semshare_agents.reuse.plan import used_rows, without
from semshare_agents.reuse.rate import RepairRate
from semshare_agents.reuse.schedule import narrowing
from semshare_agents.store.tiers import Owner
from semshare_agents.timing.clock import Clock
from semshare_agents.tools.calls import CallStream
from semshare_agents.turn.blocks import NO_BLOCKS, TurnBlocks, blocks_of, depth, superseded
from semshare_agents.turn.decode import Answer, Decoder
from semshare_agents.turn.followers import Followers
from semshare_agents.turn.load import Loader
from semshare_agents.turn.matching import matched
from semshare_agents.turn.planner import Planner
from semshare_agents.turn.state import NOWHERE, Admitted, Asked, Filled, Matched, Prefilled
from semshare_agents.values import (
    Alignment,
    Generation,
    Kind,
    Piece,
    Plan,
    Reason,
    ReasonCode,
    Report,
    Reuse,
    ToolCall,
    Usage,
)
from semshare_agents.values.reason import REUSE_OFF, joined

log = logging.getLogger(__name__)

CHANGED = Reason(ReasonCode.MODEL, "the model's weights or adapters changed while the prompt was computed")


@dataclass(frozen=True)
class Decoding:
    """How answers are decoded.

    Attributes:
        repair: How much repair a step carries.
        retention: What an answer is decoded on; None for all of its prompt's KV.
        retention_int8: Hold that in 8 bits.
    """

    repair: RepairRate
    retention: Retention | None = None
    retention_int8: bool = False


@dataclass(frozen=True)
class Pipeline:
    """What the stages need, and their order.

    Attributes:
        model: The model.
        memory: Past turns.
        engine: The way onto the model.
        runs: Makes runs.
        planner: What is taken from past turns, and what is computed.
        loader: Brings stored KV to where a prompt needs it.
        output: Makes prompts, and holds answers to what is asked for.
        decoding: How answers are decoded.
        followers: Who takes part besides.
    """

    model: LoadedModel
    memory: Memory
    engine: Engine
    runs: Runs
    planner: Planner
    loader: Loader
    output: OutputControl
    decoding: Decoding
    followers: Followers

    # --- a turn's life

    async def stream(self, request: Request, clock: Clock) -> AsyncGenerator[Piece]:
        """Answer a request piece by piece; the last piece carries the whole `Generation`.

        Args:
            request: What is asked for.
            clock: Of the call.

        Raises:
            PromptError: the messages are malformed or too long, or the answer cannot be held to what is wanted.
        """
        prefilled = await self.prefill(request, clock)
        answer = Answer(sampled_tokens=self._sampled_tokens(prefilled))
        parted = self.output.calls(request.want, prefilled.prompt)
        content, stored, turn_id = "", None, None
        try:
            async with aclosing(self.generate(prefilled, answer)) as texts:
                async for text in texts:
                    piece = Piece(text) if parted is None else _parted(parted, text)
                    content += piece.text
                    if piece.text or piece.tool_calls:
                        prefilled.begins()
                        yield piece
                    if self.decoding.retention is not None and stored is None:
                        # The whole KV is gone after this: what is to be stored has to be stored now.
                        stored = await self._put(prefilled)
                        await self._retain(prefilled)
            if parted is not None and (rest := parted.finish()):
                content += rest
                prefilled.begins()
                yield Piece(rest)
            prefilled.begins()
            if prefilled.request.store:
                turn_id = await self._commit(prefilled, answer, stored)
        finally:
            prefilled.run.close()
            if stored is not None and turn_id is None:
                await self.memory.discard(stored.blocks)
        calls = () if parted is None else parted.calls
        generation = _generation(prefilled, answer, turn_id, content, calls)
        seen = TurnSeen(self.model.name, prefilled.request, generation, clock.began_at, time.time())
        for observer in self.followers.observers:
            observer.turn(seen)
        yield Piece("", generation)

    async def prefill(self, request: Request, clock: Clock | None = None) -> Prefilled:
        """From messages to the first token's logits.

        Args:
            request: What is asked for.
            clock: Of the call; default: one that begins now.

        Raises:
            PromptError: the messages are malformed or too long, or the answer cannot be held to what is wanted.
        """
        clock = clock or Clock()
        with self.engine.idle.busy():
            matched = await self._matched(await self._tokenised(request, clock), clock)
            run = self.runs.new(len(matched.asked.prompt) + matched.asked.room_tokens)
            try:
                filled = await self._filled(matched, run, clock)
                report = await threads.work(self._report, filled, clock)
            except BaseException:
                run.close()
                raise
        prompt = matched.asked.prompt
        whose = await threads.work(unchanged, prompt, filled.matched.alignment, filled.plan)
        return Prefilled(filled, whose, run, report, clock)

    async def _tokenised(self, request: Request, clock: Clock) -> Asked:
        with clock.stage("tokenise"):
            messages = clean_messages(request.messages)
            if request.raw:
                encoder = bool(self.model.model.config.is_encoder_decoder)
                prompt = await threads.work(tokenise_text, self.model.tokenizer, messages, encoder)
            else:
                prompt = await threads.work(self.output.prompt, messages, request.want)
            constraint = await threads.work(self.output.constraint, request.want, prompt)
            room = check_length(len(prompt), request.sampling.max_new_tokens, self.model.context_tokens)
            sampler = Sampler(request.sampling, prompt, self.model.model.device, constraint)
        return Asked(replace(request, messages=messages), prompt, sampler, room)

    async def _matched(self, asked: Asked, clock: Clock) -> Matched:
        """Ask for the tenant's scope, hold the request to its limits, and find what of the prompt is stored."""
        prompt, scope = asked.prompt, NOWHERE
        found = Matched(asked, scope, Alignment.empty(len(prompt)), Admitted(asked.request))
        try:
            with clock.stage("find"):
                # What is not to be remembered leaves no name behind either.
                scope = await self.memory.scope(asked.request.tenant, make=asked.request.store)
            found = replace(found, scope=scope)
            if self.followers.monitor is not None:
                with clock.stage("admit"):
                    found = replace(found, admitted=await self.followers.monitor.admit(scope, asked.request))
            why = self._impossible(found.request, len(prompt) + asked.room_tokens)
            if why:
                return replace(found, why_cold=why)
            alignment = await matched(self.memory, self.planner, scope, found.request, prompt, clock)
            return replace(found, alignment=alignment)
        except RegistryError as e:
            # The memory may fail, an answer may not.
            log.warning("a turn runs cold: %s", e)
            why = self._impossible(found.request, len(prompt) + asked.room_tokens)
            return replace(found, why_cold=why or Reason(ReasonCode.MEMORY, f"the memory fails: {e}"))

    def _impossible(self, request: Request, tokens: int) -> Reason | None:
        """Why nothing can be reused for this prompt, whatever is stored; None where something might."""
        return self.model.support.beyond(tokens) or (REUSE_OFF if request.reuse is Reuse.OFF else None)

    async def _filled(self, matched: Matched, run: Run, clock: Clock) -> Filled:
        """A run with the KV of the whole prompt, by a model that did not change meanwhile."""
        filled = await self._loaded_and_computed(matched, run, clock)
        if matched.scope is NOWHERE or await self.memory.unchanged(matched.scope):
            return filled
        # KV of before beside rows of after would be neither's.
        empty = Alignment.empty(len(matched.asked.prompt))
        try:
            scope = await self.memory.scope(matched.request.tenant, make=matched.request.store)
        except RegistryError as e:
            log.warning("a turn will not be remembered: %s", e)
            scope = NOWHERE
        again = replace(matched, scope=scope, alignment=empty, why_cold=CHANGED)
        return await self._loaded_and_computed(again, run, clock)

    async def _loaded_and_computed(self, matched: Matched, run: Run, clock: Clock) -> Filled:
        """Plan, load, move and compute; blocks that cannot be served are counted and their tokens computed."""
        misses, rows = 0, run.by_rows
        request, scope = matched.request, matched.scope
        owner = Owner(scope.tenant, (request.session or "") if request.store else "")
        while True:
            alignment = matched.alignment
            with clock.stage("plan"):
                plan = await threads.work(self._plan, matched)
            if plan.cold or rows is None:
                return Filled(matched, plan, await self._all_rows(matched, run, clock), misses)
            within = partial(clock.stage, "load")
            missing = await self.loader.load(scope, alignment, used_rows(plan, alignment), rows, owner, within)
            if not missing:
                plan, logits = await self._chosen_rows(matched, plan, rows, clock)
                rows.spread_logits, exact, within = plan.spread_logits, rows.exact, partial(clock.stage, "compute")
                logits = await self._settled(rows, matched.asked.sampler, logits, FIRST_SPREADS, within)
                plan = plan if rows.exact == exact else finished(plan, exact, len(alignment))
                return Filled(matched, plan, logits, misses)
            misses += len(missing)
            log.warning("%d stored blocks could not be served and count as misses", len(missing))
            matched = replace(matched, alignment=without(alignment, set(missing)))

    def _plan(self, matched: Matched) -> Plan:
        if matched.why_cold:
            return self.planner.cold(len(matched.asked.prompt), matched.why_cold)
        return self.planner.plan(matched.alignment, matched.request, self.model, self.memory.only_on_disk)

    async def _all_rows(self, matched: Matched, run: Run, clock: Clock) -> torch.Tensor:
        """A full prefill, from which the cost model learns."""
        prompt, cost = matched.asked.prompt, self.planner.cost
        if cost is not None and (matched.alignment.kind != Kind.COMPUTED).any():
            cost.saw_refusal()
        took = await self.engine.compute(run.whole(prompt), partial(clock.stage, "compute"))
        if cost is not None and run.by_rows is not None:
            cost.saw_cold(len(prompt), took)
        return took.result[-1]

    async def _chosen_rows(self, matched: Matched, plan: Plan, run: RowRun, clock: Clock) -> tuple[Plan, torch.Tensor]:
        """Compute a plan's rows, then, where it looks, the rows that the prompt's end looked at and that end again.

        What late looks choose, and that end once more, is left to the first decoding steps.
        """
        prompt, alignment, within = matched.asked.prompt, matched.alignment, partial(clock.stage, "compute")
        looking = viewers(plan.rows, len(prompt))
        layers = gathering_layers(self.model.layers)
        observer = TailWatch(len(prompt) - looking, layers) if plan.looks else None
        run.semantic, run.hurried = bool((alignment.kind == Kind.SEMANTIC).any()), plan.hurried
        frontier = exact_frontier(alignment, plan)
        step = run.part(prompt, plan.rows, frontier, narrowing(plan), plan.check_layer, observer)
        took = await self.engine.compute(step, within)
        logits, cost = took.result[-1], self.planner.cost
        if observer is None:
            if cost is not None and not plan.layer_shares:
                cost.saw_rows(plan.rows, took)
            return plan, logits
        attention = await self.engine.call(lambda: gathered(observer.attention()), run, within)
        end = np.arange(len(prompt) - looking, len(prompt))
        late = seen_rows([look for look in plan.looks if look.late], attention)
        if len(late):
            run.late = np.union1d(late, end)
        seen = seen_rows([look for look in plan.looks if not look.late], attention)
        if not len(seen):
            return plan, logits
        plan = replace(plan, rows=np.union1d(plan.rows, seen), required=np.union1d(plan.required, seen))
        step = run.part(prompt, np.union1d(seen, end), exact_frontier(alignment, plan))
        return plan, (await self.engine.compute(step, within)).result[-1]

    def _report(self, filled: Filled, clock: Clock) -> Report:
        matched, plan = filled.matched, filled.plan
        again = computed_again(matched.request.reuse, matched.alignment, plan, filled.misses)
        plan = replace(plan, reason=joined(matched.admitted.note, plan.reason or again))
        stages, elapsed = clock.told()
        candidates = len(plan.rows) - len(plan.required)
        report = make_report(matched.alignment, plan, stages, elapsed, filled.misses, self.model.layers, candidates)
        cost = self.planner.cost
        if cost is None:
            return report
        return replace(report, saved=saved(stages, plan.cold, cost.like_cold(len(matched.asked.prompt))))

    async def generate(self, prefilled: Prefilled, answer: Answer) -> AsyncGenerator[str]:
        """Draw tokens until the answer ends; yields text as it becomes certain and fills `answer`."""
        asked, logits, engine = prefilled.asked, prefilled.logits, self.engine
        sampling = asked.request.sampling
        decoder = Decoder(
            answer,
            asked.sampler,
            TextStream(self.model.tokenizer, sampling.stop, self.output.marks(asked.request.want)),
            self.model.end_tokens,
            asked.room_tokens,
        )
        within = partial(prefilled.clock.stage, "first")
        while True:
            piece = await engine.call(partial(decoder.draw, logits), prefilled.run, within)
            # A piece is handed out before the next token's row is computed.
            if piece:
                yield piece
            if answer.finish_reason:
                return
            step = self.next_step(prefilled.run, answer.tokens[-1])
            logits = (await engine.compute(step, within)).result[-1]
            logits = await self._settled(prefilled.run, asked.sampler, logits, LATER_SPREADS, within)

    async def _settled(
        self, run: Run, sampler: Sampler, logits: torch.Tensor, spreads: float, within: Within
    ) -> torch.Tensor:
        """The logits from which a token may be drawn: a cold run's where drift could decide which it is."""
        rows = run.by_rows
        if rows is None or not rows.spread_logits or rows.exact >= rows.length:
            return logits
        if await self.engine.call(partial(uncertain, run, sampler, logits, spreads), run, within):
            logits = (await self.engine.compute(rows.rest(), within)).result[-1]
        return logits

    def next_step(self, run: Run, token: int) -> Step:
        """The step that computes a token's row, and what else a step carries."""
        rows = run.by_rows
        if rows is None:
            return run.next(token)
        beside = self.decoding.repair.beside_a_step(rows.length, rows.exact, rows.semantic, self.planner.cost)
        return run.next(token, beside)

    async def _retain(self, prefilled: Prefilled) -> None:
        """Go on with the part of the KV that retention keeps; the rest is given back."""
        rows, run = self.model.support.rows, prefilled.run.by_rows
        how = self.decoding
        if how.retention is None or rows is None or run is None:
            return
        prefilled.run = await self.engine.call(partial(retained, rows, run, how.retention, how.retention_int8), run)
        run.close()

    # --- what a turn leaves behind

    def _sampled_tokens(self, prefilled: Prefilled) -> int:
        monitor = self.followers.monitor
        return 0 if monitor is None else monitor.sampled_tokens(prefilled)

    async def _put(self, prefilled: Prefilled) -> TurnBlocks:
        """Keep the KV that a run has so far in the fastest tier with room; the registry does not know of it yet."""
        run = prefilled.run.by_rows
        if run is None or not prefilled.request.store:
            return NO_BLOCKS
        found = await blocks_of(self.memory.registry, prefilled, run, self.memory.spec.block_tokens)
        kept = await self.memory.put(prefilled.scope, run, found.blocks, prefilled.owner)
        return replace(found, blocks=kept)

    async def _commit(self, prefilled: Prefilled, answer: Answer, stored: TurnBlocks | None) -> int | None:
        """Remember a turn; its answer stands even where that fails."""
        scope, session = prefilled.scope, prefilled.request.session
        if scope is NOWHERE:
            log.warning("a turn is not remembered: the memory failed when it began")
            return None
        try:
            if not await self.memory.unchanged(scope):
                # Its KV is of weights or adapters that are no longer the scope's: the text alone is remembered.
                await self.memory.discard(() if stored is None else stored.blocks)
                stored = NO_BLOCKS
            stored = stored or await self._put(prefilled)
            try:
                turn = await threads.work(self._new_turn, prefilled, answer, stored)
                turn_id = await self.memory.commit(scope, turn)
            except BaseException:
                await self.memory.discard(stored.blocks)
                raise
        except SemShareError as e:
            log.warning("a turn is not remembered: %s", e)
            return None
        self.memory.write_later(scope, stored.blocks, prefilled.owner, stored.replaced)
        if self.followers.repairs is not None and stored.repairable:
            self.followers.repairs.add(scope, turn_id, session)
        if self.followers.monitor is not None and answer.logits:
            self.followers.monitor.add(prefilled, answer, turn_id)
        return turn_id

    def _new_turn(self, prefilled: Prefilled, answer: Answer, stored: TurnBlocks) -> NewTurn:
        bands = self.planner.lexicon.signer(prefilled.scope).bands(stored.tokens) if stored.blocks else ()
        return NewTurn(
            tokens=stored.tokens,
            blocks=stored.blocks,
            bands=tuple(np.unique(bands).tolist()),
            messages=prefilled.request.messages,
            answer=answer.text,
            report=prefilled.report,
            prompt_tokens=len(prefilled.prompt),
            session=prefilled.request.session,
            exact_tokens=stored.exact_tokens,
            depth=depth(prefilled, stored.exact_tokens == len(stored.tokens)),
            superseded=superseded(prefilled, stored.tokens),
        )


def _parted(parted: CallStream, text: str) -> Piece:
    content, parts = parted.push(text)
    return Piece(content, None, parts)


def _generation(
    prefilled: Prefilled, answer: Answer, turn_id: int | None, content: str, calls: tuple[ToolCall, ...]
) -> Generation:
    report = replace(prefilled.report, turn_id=turn_id)
    usage = Usage(len(prefilled.prompt), len(answer.tokens), report.tokens["exact"])
    called = any(call.whole for call in calls) and answer.finish_reason == "stop"
    reason = "tool_calls" if called else answer.finish_reason
    return Generation(content, tuple(answer.tokens), reason, usage, report, calls, answer.text)
