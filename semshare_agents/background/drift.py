"""The drift monitor: approximate turns are sampled and measured against cold runs; who drifts too far is narrowed.

Whether a turn is sampled is drawn before it answers, so that the logits it answers from can be kept. While nobody waits
for the model the same tokens are computed cold; the mean KL of cold to reuse is the turn's drift. Each class of reuse
has a window of drift for each session and each tenant. Where the window of `semantic` leaves the budget, `moved` is the
loosest reuse from then on; where that of `moved` does, `exact` is. Of the turns that are narrowed, one in so many is
let through as a probe and always measured; once a window of probes is well within the budget, the limit is widened.

Limits and samples are in the registry and read once; what another process learns meanwhile counts after a restart.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from random import Random

import numpy as np
import torch

from semshare_agents.background.repair import CHUNK_ROWS
from semshare_agents.background.work import IdleWork
from semshare_agents.concurrency import threads
from semshare_agents.errors import SemShareError
from semshare_agents.observe.drift import agreement, kl_mean
from semshare_agents.registry import DriftSample, Limit
from semshare_agents.request.request import Request
from semshare_agents.turn.decode import Answer
from semshare_agents.turn.load import Loader
from semshare_agents.turn.state import NOWHERE, Admitted, Prefilled
from semshare_agents.values import Ints, Reason, ReasonCode, Reuse, Scope

log = logging.getLogger(__name__)

WATCHED_TOKENS = 32
MOST_WAITING = 8
"""Each waiting turn holds `WATCHED_TOKENS` rows of logits, 6 MiB at a vocabulary of 49k."""
RECOVERED = 0.5
"""Probes must be this far within the budget, so that a limit does not come and go."""
STRICTER = {Reuse.SEMANTIC: Reuse.MOVED, Reuse.MOVED: Reuse.EXACT}
WIDER = {stricter: word for word, stricter in STRICTER.items()}


@dataclass(frozen=True)
class MonitorSettings:
    """How the guard judges.

    Attributes:
        share: Share of approximate turns that are measured; 0 for no guard at all.
        budget: Mean KL of a window, in nats.
        window: Samples of a window.
        probe_turns: Of so many narrowed turns the last is a probe.
    """

    share: float
    budget: float
    window: int
    probe_turns: int


@dataclass
class Watch:
    """What the guard knows of a tenant or a session.

    Attributes:
        limit: The loosest reuse allowed.
        refused: Turns narrowed since the last probe.
        windows: KL of the newest samples since the limit came about, by class; read when first needed.
    """

    limit: Limit = field(default_factory=Limit)
    refused: int = 0
    windows: dict[Reuse, deque[float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Job:
    """A sampled turn.

    Attributes:
        scope: Tenant and model.
        session: Session name; None for stateless calls.
        turn_id: The turn.
        reuse: The loosest reuse that it used.
        tokens: The prompt and the answer up to the last token compared, shape `(tokens,)`.
        logits: What its first answer tokens were drawn from, `(compared, vocabulary)`.
    """

    scope: Scope
    session: str | None
    turn_id: int
    reuse: Reuse
    tokens: Ints
    logits: torch.Tensor


class DriftMonitor(IdleWork[Job]):
    """Samples, measures and narrows; all methods belong on the event loop's thread.

    Args:
        loader: Brings what is stored of sampled turns.
        settings: How it judges.
        repaired: Waits for repair, which leaves behind most of what a cold run needs.
        seed: Of the draws; None for a new one.
        seen: Told of every sample.
    """

    def __init__(
        self,
        loader: Loader,
        settings: MonitorSettings,
        repaired: Callable[[], Awaitable[None]],
        seed: int | None = None,
        seen: Callable[[DriftSample], None] = lambda _: None,
    ):
        super().__init__(MOST_WAITING)
        self._loader = loader
        self._settings = settings
        self._repaired = repaired
        self._random = Random(seed)
        self._seen = seen
        self._watches: dict[bytes, dict[str | None, Watch]] = {}

    # --- before and during a turn

    async def admit(self, scope: Scope, request: Request) -> Admitted:
        """Hold a request to the limits of its tenant and session."""
        if not self._settings.share or scope is NOWHERE:
            return Admitted(request)
        watches = await self._watches_of(scope)
        word, note, probed = request.reuse, None, list[Watch]()
        for whose in {None: "tenant", request.session: "session"} if request.session else {None: "tenant"}:
            watch = watches.get(whose)
            if watch is None or watch.limit.reuse.allows(request.reuse):
                continue
            allowed = watch.limit.reuse
            if request.store and watch.refused + 1 >= self._settings.probe_turns:
                allowed, watch.refused = WIDER[allowed], 0
                probed.append(watch)
                reason = f"allowed {allowed} as a probe of the guard: {watch.limit.reason}"
            else:
                watch.refused += 1
                reason = f"narrowed to {allowed} by the guard: {watch.limit.reason}"
            if word.allows(allowed):
                word, note = allowed, Reason(ReasonCode.GUARD, reason)
        return Admitted(replace(request, reuse=word), note, tuple(probed))

    def sampled_tokens(self, prefilled: Prefilled) -> int:
        """Of how many of an answer's first tokens the logits are to be kept: some where the turn is sampled."""
        report = prefilled.report
        approximate = report.reuse_class in STRICTER
        probe = False
        for watch in prefilled.filled.matched.admitted.probed:
            if approximate and not watch.limit.reuse.allows(Reuse(report.reuse_class)):
                probe = True
            else:
                # It used nothing that is in question: the next turn is the probe.
                watch.refused = self._settings.probe_turns - 1
        chosen = approximate and prefilled.request.store and (probe or self._random.random() < self._settings.share)
        return WATCHED_TOKENS if chosen else 0

    async def _watches_of(self, scope: Scope) -> dict[str | None, Watch]:
        if scope.hash_key not in self._watches:
            limits = await self._loader.memory.registry.limits(scope)
            self._watches.setdefault(scope.hash_key, {whose: Watch(limit) for whose, limit in limits.items()})
        return self._watches[scope.hash_key]

    # --- after it

    def add(self, prefilled: Prefilled, answer: Answer, turn_id: int) -> None:
        """Measure a sampled turn when there is time; of too many that wait the oldest is given up."""
        if self._closing:
            return
        answered = np.asarray(answer.tokens[: len(answer.logits) - 1], np.int64)
        tokens = np.concatenate((prefilled.prompt, answered))
        request, reuse = prefilled.request, Reuse(prefilled.report.reuse_class)
        logits = torch.stack(answer.logits)
        self._put(Job(prefilled.scope, request.session, turn_id, reuse, tokens, logits))

    async def _work(self) -> None:
        while self._waiting:
            await self._repaired()
            if not self._waiting:
                return
            job = self._waiting.popleft()
            try:
                cold = await self._cold(job)
                if cold is not None and await self._loader.memory.unchanged(job.scope):
                    await self._judge(job, await threads.work(_compared, job, cold))
            except SemShareError as e:
                log.warning("turn %d is not measured: %s", job.turn_id, e)

    async def _cold(self, job: Job) -> torch.Tensor | None:
        """Logits of a cold run over a turn's answer, `(compared, vocabulary)`; None where the guard is closing."""
        count, first = len(job.logits), len(job.tokens) - len(job.logits)
        engine, rows = self._loader.engine, np.arange(first, len(job.tokens))
        await engine.idle.quiet()
        self._running = run = await self._loader.exact_run(job.scope, job.tokens)
        try:
            run.continue_from(job.tokens, min(run.exact, first))
            while run.exact < first and self._wanted():
                await engine.when_idle(lambda: run.again(min(CHUNK_ROWS, first - run.exact)), run, self._wanted)
            cold = None
            while cold is None and self._wanted():
                cold = await engine.when_idle(lambda: run.beyond(job.tokens[rows], rows, count), run, self._wanted)
            return None if cold is None else cold.result
        finally:
            self._running = None
            run.close()

    def _wanted(self) -> bool:
        return not self._closing

    async def _judge(self, job: Job, sample: DriftSample) -> None:
        """Record a sample and hold its tenant and session to the budget."""
        await self._loader.memory.registry.add_drift(job.scope, sample)
        self._seen(sample)
        watches = await self._watches_of(job.scope)
        for whose in dict.fromkeys((None, job.session)):
            watch = watches.setdefault(whose, Watch())
            window = await self._window(job.scope, whose, watch, job.reuse, sample.kl)
            judged = judge(watch.limit.reuse, job.reuse, window, self._settings)
            if judged is None:
                continue
            kind = "widen" if judged.allows(watch.limit.reuse) else "narrow"
            reason = (
                f"mean KL {sum(window) / len(window):.2g} over {len(window)} {job.reuse} "
                f"sample{'s' if len(window) > 1 else ''}, budget {self._settings.budget:.2g}"
            )
            log.warning("%s %s to %s: %s", kind, whose or job.scope.tenant, judged, reason)
            limit = Limit(judged, reason, time.time())
            await self._loader.memory.registry.set_limit(job.scope, whose, limit, kind, job.turn_id)
            watch.limit, watch.refused = limit, 0
            watch.windows.clear()

    async def _window(self, scope: Scope, whose: str | None, watch: Watch, reuse: Reuse, newest: float) -> deque[float]:
        """The window with the newest sample in it; after a restart the registry, which has it, gives all."""
        if reuse in watch.windows:
            watch.windows[reuse].append(newest)
        else:
            kept = await self._loader.memory.registry.drift(
                scope, whose, str(reuse), watch.limit.since, self._settings.window
            )
            watch.windows[reuse] = deque(kept, self._settings.window)
        return watch.windows[reuse]


def judge(limit: Reuse, reuse: Reuse, window: deque[float], settings: MonitorSettings) -> Reuse | None:
    """The limit that follows from a window of samples; None where it stays as it is.

    A window that is not full yet narrows only what would leave the budget even if all samples to come were 0, and
    widens nothing.

    Args:
        limit: The loosest reuse allowed so far.
        reuse: The class of the samples.
        window: Their KL, in nats.
        settings: Budget and size of the window.
    """
    if limit.allows(reuse):
        return STRICTER[reuse] if sum(window) > settings.budget * settings.window else None
    if reuse is not WIDER[limit]:
        return None
    recovered = len(window) == settings.window and sum(window) <= RECOVERED * settings.budget * settings.window
    return reuse if recovered else None


def _compared(job: Job, cold: torch.Tensor) -> DriftSample:
    cold = cold.float().cpu()
    return DriftSample(
        job.turn_id, str(job.reuse), kl_mean(cold, job.logits), agreement(cold, job.logits), len(job.logits)
    )
