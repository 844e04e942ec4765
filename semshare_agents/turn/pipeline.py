"""A turn's whole life, in order.

`tokenise -> match -> plan -> load -> compute -> decode -> commit`

Each stage takes values and returns one; none knows another. This file alone knows their order. What a stage computes
runs on threads: the event loop only waits.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from functools import partial

from semshare_agents.concurrency import threads
from semshare_agents.concurrency.threads import both
from semshare_agents.engine import Engine, Priority
from semshare_agents.errors import RegistryError, SemShareError
from semshare_agents.memory import Memory
from semshare_agents.model.likelihoods import Likelihoods
from semshare_agents.model.loading import LoadedModel
from semshare_agents.model.run import DEFERRED_STEP_ROWS, Run, Step
from semshare_agents.model.text import TextStream
from semshare_agents.request.output import OutputControl
from semshare_agents.request.request import Request
from semshare_agents.retain.run import retained
from semshare_agents.reuse.certain import LATER_SPREADS
from semshare_agents.reuse.plan import used_rows, without
from semshare_agents.timing.clock import Clock
from semshare_agents.turn.asking import asked_of, tokenised
from semshare_agents.turn.blocks import NO_BLOCKS, TurnBlocks, blocks_of, new_turn
from semshare_agents.turn.choices import again, once_more, rewound
from semshare_agents.turn.compute import Computing, settled
from semshare_agents.turn.decode import Answer, Decoder, Decoding
from semshare_agents.turn.drafting import Drafting
from semshare_agents.turn.followers import Followers
from semshare_agents.turn.likelihood import likely_prompt
from semshare_agents.turn.load import Loader
from semshare_agents.turn.matching import matched
from semshare_agents.turn.outcome import generation_of, report_of
from semshare_agents.turn.planner import Planner
from semshare_agents.turn.state import NOWHERE, Admitted, Asked, Filled, Matched, Prefilled, TurnUnderway
from semshare_agents.turn.underway import Underway
from semshare_agents.values import Alignment, Kind, Piece, Plan, Reason, ReasonCode, Reuse
from semshare_agents.values.reason import MODEL_CHANGED, REUSE_OFF

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pipeline:
    """What the stages need, and their order.

    Attributes:
        model: The model.
        memory: Past turns.
        engine: The way onto the model.
        underway: Turns that have no answer yet.
        planner: What is taken from past turns, and what is computed.
        loader: Brings stored KV to where a prompt needs it.
        output: Makes prompts, and holds answers to what is asked for.
        decoding: How answers are decoded.
        followers: Who takes part besides.
    """

    model: LoadedModel
    memory: Memory
    engine: Engine
    underway: Underway
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
        finished = False
        try:
            for choice in range(request.choices):
                if choice:
                    prefilled = await self._once_more(prefilled)
                async with aclosing(self._answered(prefilled, choice)) as pieces:
                    async for piece in pieces:
                        yield piece
            finished = True
        finally:
            self.underway.leave(prefilled.run, prefilled.turn, finished)

    async def _once_more(self, prefilled: Prefilled) -> Prefilled:
        """The prompt again, for another answer; its KV is there already where the run can go back to it."""
        request = again(prefilled.request)
        if not rewound(prefilled):
            return await self.prefill(request)
        return once_more(prefilled, await threads.work(asked_of, self.model, self.output, request, prefilled.prompt))

    async def _answered(self, prefilled: Prefilled, choice: int) -> AsyncGenerator[Piece]:
        """Draw one answer to a prompt piece by piece, and store the turn."""
        answer, request = Answer(sampled_tokens=self.followers.sampled_tokens(prefilled)), prefilled.request
        parted = self.output.parts(request.response, prefilled.prompt)
        content, stored, turn_id, told = "", None, None, 0
        try:
            async with aclosing(self.generate(prefilled, answer)) as texts:
                async for text in texts:
                    piece = parted.piece(text)
                    content += piece.text
                    if piece.text or piece.tool_calls or piece.thoughts:
                        prefilled.begins()
                        likely = answer.told(told)
                        told += len(likely)
                        yield replace(piece, choice=choice, logprobs=likely)
                    if self.decoding.retention is not None and stored is None:
                        # The whole KV is gone after this: what is to be stored has to be stored now.
                        stored = await self._put(prefilled)
                        await self._retain(prefilled)
            rest = parted.last()
            if rest.text or rest.thoughts:
                content += rest.text
                prefilled.begins()
                yield replace(rest, choice=choice)
            prefilled.begins()
            if prefilled.request.store:
                turn_id = await self._commit(prefilled, answer, stored)
        finally:
            if stored is not None and turn_id is None:
                await self.memory.discard(stored.blocks)
        generation = generation_of(prefilled, answer, turn_id, content, parted.calls)
        generation = replace(generation, thoughts=parted.thoughts, choice=choice)
        if not choice:
            self.followers.tell(self.model.name, prefilled, generation)
        yield Piece("", generation, choice=choice, logprobs=answer.told(told))

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
            # The model is looked at while the tokenizer is at work.
            looked, asked = await both(self.memory.fingerprint(), tokenised(self.model, self.output, request, clock))
            matched = await self._matched(asked, looked, clock)
            run = self.loader.runs.new(len(matched.asked.prompt), matched.asked.room_tokens)
            run.tenant = matched.request.tenant
            # Nothing is awaited in between: of two equal prompts the second one finds the first.
            turn = None if run.by_rows is None else self.underway.begin(matched, run.by_rows)
            prefilled = None
            try:
                if run.by_rows is not None and self.engine.running:
                    await threads.work(run.by_rows.touch)
                filled = await self._filled(matched, run, turn, clock)
                report = await threads.work(report_of, filled, self.model.layers, self.planner.cost, clock)
                prefilled = Prefilled(filled, run, report, clock, turn)
            finally:
                if prefilled is None:
                    self.underway.leave(run, turn, finished=False)
        return prefilled

    async def _matched(self, asked: Asked, fingerprint: str, clock: Clock) -> Matched:
        """Ask for the tenant's scope, hold the request to its limits, and find what of the prompt is stored."""
        prompt, scope = asked.prompt, NOWHERE
        found = Matched(asked, scope, Alignment.empty(len(prompt)), Admitted(asked.request))
        try:
            with clock.stage("find"):
                # What is not to be remembered leaves no name behind either.
                scope = await self.memory.scope(asked.request.tenant, asked.request.store, fingerprint)
            found = replace(found, scope=scope)
            if self.followers.monitor is not None:
                with clock.stage("admit"):
                    found = replace(found, admitted=await self.followers.monitor.admit(scope, asked.request))
            why = self._impossible(found.request, len(prompt) + asked.room_tokens)
            if why:
                return replace(found, why_cold=why)
            joined: list[TurnUnderway] = []
            while True:
                alignment = await matched(self.memory, self.planner, scope, found.request, prompt, clock)
                found = replace(found, alignment=alignment)
                other = self.underway.ahead(found, joined)
                if other is None:
                    return found
                joined.append(other[0])
                await self.underway.joined(*other)
        except RegistryError as e:
            # The memory may fail, an answer may not.
            log.warning("a turn runs cold: %s", e)
            why = self._impossible(found.request, len(prompt) + asked.room_tokens)
            return replace(found, why_cold=why or Reason(ReasonCode.MEMORY, f"the memory fails: {e}"))

    def _impossible(self, request: Request, tokens: int) -> Reason | None:
        """Why nothing can be reused for this prompt, whatever is stored; None where something might."""
        return self.model.support.beyond(tokens) or (REUSE_OFF if request.reuse is Reuse.OFF else None)

    async def _filled(self, matched: Matched, run: Run, turn: TurnUnderway | None, clock: Clock) -> Filled:
        """A run with the KV of the whole prompt, by a model that did not change meanwhile."""
        filled = await self._loaded_and_computed(matched, run, clock)
        if matched.scope is NOWHERE or await self.memory.unchanged(matched.scope):
            return filled
        # KV of before beside rows of after would be neither's, and that of after is not the first scope's.
        if turn is not None:
            turn.registrable = False
        empty = Alignment.empty(len(matched.asked.prompt))
        try:
            scope = await self.memory.scope(matched.request.tenant, make=matched.request.store)
        except RegistryError as e:
            log.warning("a turn will not be remembered: %s", e)
            scope = NOWHERE
        again = replace(matched, scope=scope, alignment=empty, why_cold=MODEL_CHANGED)
        return await self._loaded_and_computed(again, run, clock)

    async def _loaded_and_computed(self, matched: Matched, run: Run, clock: Clock) -> Filled:
        """Plan, load, move and compute; blocks that cannot be served are counted and their tokens computed."""
        prompt, rows, misses = matched.asked.prompt, run.by_rows, 0
        cost, layers = self.planner.cost, self.model.layers
        computing = Computing(self.engine, cost, layers, partial(clock.stage, "compute"))
        while True:
            alignment = matched.alignment
            with clock.stage("plan"):
                plan = await threads.work(self._plan, matched)
            if plan.cold or rows is None:
                if (most := matched.request.prompt_logprobs) is not None:
                    told = Likelihoods(self.model.tokenizer, most)
                    logits, likely = await likely_prompt(self.engine, run, prompt, told, computing.within)
                    return Filled(matched, plan, logits, misses, likely)
                refused = bool((alignment.kind != Kind.COMPUTED).any())
                return Filled(matched, plan, await computing.all_rows(run, prompt, refused), misses)
            positions, within = used_rows(plan, alignment), partial(clock.stage, "load")
            missing = await self.loader.load(matched.scope, alignment, positions, rows, matched.owner, within)
            if not missing:
                plan, logits = await computing.chosen_rows(rows, prompt, alignment, plan, matched.asked.sampler)
                return Filled(matched, plan, logits, misses)
            misses += len(missing)
            log.warning("%d stored blocks could not be served and count as misses", len(missing))
            matched = replace(matched, alignment=without(alignment, set(missing)))

    def _plan(self, matched: Matched) -> Plan:
        if matched.why_cold:
            return self.planner.cold(len(matched.asked.prompt), matched.why_cold)
        return self.planner.plan(matched.alignment, matched.request, self.model, self.memory.only_on_disk)

    async def generate(self, prefilled: Prefilled, answer: Answer) -> AsyncGenerator[str]:
        """Draw tokens until the answer ends; yields text as it becomes certain and fills `answer`."""
        asked, logits, engine = prefilled.asked, prefilled.logits, self.engine
        sampling = asked.request.sampling
        decoder = Decoder(
            answer,
            asked.sampler,
            TextStream(self.model.tokenizer, sampling.stop, self.output.marks(asked.request.response)),
            self.model.end_tokens,
            asked.room_tokens,
            None if (most := asked.request.logprobs) is None else Likelihoods(self.model.tokenizer, most),
        )
        within = partial(prefilled.clock.stage, "first")
        drafting = Drafting(self.decoding.drafts, prefilled, answer, self.model.end_tokens)
        try:
            while True:
                draw = partial(drafting.draw, decoder, logits, LATER_SPREADS)
                # Pieces are handed out before the next token's row is computed.
                for piece in filter(None, await engine.call(draw, prefilled.run, within)):
                    yield piece
                if answer.finish_reason:
                    prefilled.drafted(answer.drafted_tokens, answer.accepted_tokens)
                    return
                row = drafting.row
                if row is None:
                    drafts = await drafting.proposed(self.decoding.beside(prefilled.run, self.planner.cost))
                    step = self.next_step(prefilled.run, answer.tokens[-1], drafts)
                    row = drafting.computed(step, await engine.compute(step, within, Priority.STREAM))
                logits = await settled(engine, prefilled.run, asked.sampler, row, LATER_SPREADS, within)
                drafting.settled(logits is row)
        finally:
            engine.over(prefilled.run)

    def next_step(self, run: Run, token: int, drafts: Sequence[int] = ()) -> Step:
        """The step that computes the rows of a token and of what is drafted after it, and what else a step carries."""
        if run.by_rows is None:
            return run.next(token)
        # Where many answers run each carries fewer rows.
        few = self.engine.rows_beside
        beside = (1 + len(drafts)) * self.decoding.beside(run, self.planner.cost)
        return run.by_rows.next(token, few(beside), drafts[: few(len(drafts))], few(DEFERRED_STEP_ROWS))

    async def _retain(self, prefilled: Prefilled) -> None:
        """Go on with the part of the KV that retention keeps; the rest is given back."""
        rows, run = self.model.support.rows, prefilled.run.by_rows
        how = self.decoding
        if how.retention is None or rows is None or run is None:
            return
        prefilled.run = await self.engine.call(partial(retained, rows, run, how.retention, how.retention_int8), run)
        self.underway.leave(run, prefilled.turn, finished=True)

    # --- what a turn leaves behind

    async def _put(self, prefilled: Prefilled) -> TurnBlocks:
        """Keep the KV that a run has so far in the fastest tier with room; the registry does not know of it yet."""
        run = prefilled.run.by_rows
        if run is None or not prefilled.request.store or prefilled.scope is NOWHERE:
            return NO_BLOCKS
        found = await blocks_of(self.memory.registry, prefilled, run, self.memory.spec.block_tokens)
        kept = await self.memory.put(prefilled.scope, run, found.blocks, prefilled.owner)
        return replace(found, blocks=kept)

    async def _commit(self, prefilled: Prefilled, answer: Answer, stored: TurnBlocks | None) -> int | None:
        """Remember a turn; its answer stands even where that fails."""
        scope = prefilled.scope
        if scope is NOWHERE:
            log.warning("a turn is not remembered: the memory failed when it began")
            return None
        try:
            if not await self.memory.unchanged(scope):
                # Its KV is of weights or adapters that are no longer the scope's: the text alone is remembered.
                await self.memory.discard(() if stored is None else stored.blocks)
                stored = NO_BLOCKS
            # What others have found of it since it began becomes this turn.
            async with prefilled.alone():
                stored = stored or await self._put(prefilled)
                try:
                    signer = await threads.work(self.planner.lexicon.signer, scope)
                    turn = await threads.work(new_turn, prefilled, answer.text, stored, signer)
                    turn_id = await self.memory.commit(scope, turn, prefilled.registered_as)
                    prefilled.settle()
                except BaseException:
                    await self.memory.discard(stored.blocks)
                    raise
        except SemShareError as e:
            log.warning("a turn is not remembered: %s", e)
            return None
        self.memory.write_later(scope, stored.blocks, prefilled.owner, stored.replaced)
        if self.decoding.drafts is not None:
            self.decoding.drafts.past(scope)
        self.followers.stored(prefilled, answer, turn_id, stored.repairable)
        return turn_id
