"""How an adapter starts: its memory, its model, the lock that says it lives, and who works in its idle time."""

from __future__ import annotations

import fcntl
import gc
import os
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO

import torch

from semshare_agents.background.drift import DriftMonitor, MonitorSettings
from semshare_agents.background.repair import Repairer
from semshare_agents.background.speeds import Remeasurer
from semshare_agents.concurrency import threads
from semshare_agents.drafts import Drafts
from semshare_agents.drafts.price import StepPrice
from semshare_agents.engine import Engine
from semshare_agents.errors import StoreNotWritableError
from semshare_agents.evict import EvictionPolicy, PolicyOptions, make_policy
from semshare_agents.kv.packing import Packing, make_packing
from semshare_agents.match.lexicon import Lexicon
from semshare_agents.match.matchers import make_matcher
from semshare_agents.memory import BlockSpec, Memory
from semshare_agents.memory.recovery import hold_to_limits, recover
from semshare_agents.model.loading import LoadedModel, load
from semshare_agents.model.runs import Runs
from semshare_agents.observe.observers import Observer
from semshare_agents.registry import DriftSample, Registry
from semshare_agents.request.output import OutputControl
from semshare_agents.retain import Retention
from semshare_agents.reuse.cost import CostModel
from semshare_agents.reuse.drift import calibration_for
from semshare_agents.reuse.measure import Measuring, measured, setting_of
from semshare_agents.reuse.plan import PlanSettings
from semshare_agents.reuse.rate import RepairRate
from semshare_agents.reuse.speeds import keep, path_of
from semshare_agents.reuse.strategies import make_strategy
from semshare_agents.security import files as private
from semshare_agents.security import name_key as keys
from semshare_agents.security.encryption import Cipher, make_cipher
from semshare_agents.settings import Settings
from semshare_agents.store import BlockStore, DeviceStore, DiskStore, MemoryStore, Tier, Tiers
from semshare_agents.store.holds import Leases, Limits
from semshare_agents.turn import Pipeline
from semshare_agents.turn.decode import Decoding
from semshare_agents.turn.followers import Followers
from semshare_agents.turn.load import Loader
from semshare_agents.turn.planner import Planner
from semshare_agents.turn.underway import Underway
from semshare_agents.values import Reuse

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Started:
    """An adapter at work.

    Attributes:
        pipeline: A turn's stages and what they need.
        repairer: Makes turns exact in idle time; None where nobody does.
        monitor: Holds turns to limits.
        remeasurer: Keeps speeds true; None where nobody does.
        alive: The lock that says this process lives.
    """

    pipeline: Pipeline
    repairer: Repairer | None
    monitor: DriftMonitor
    remeasurer: Remeasurer | None
    alive: IO[bytes]

    async def settle(self) -> None:
        """Wait until nothing is left to repair, to measure, to write and to read again."""
        if self.repairer is not None:
            await self.repairer.settle()
        await self.monitor.settle()
        await self.pipeline.underway.settle()
        await self.pipeline.memory.flush()
        if self.pipeline.decoding.drafts is not None:
            await self.pipeline.decoding.drafts.settle()

    async def aclose(self) -> None:
        """End what is done in idle time, finish writing, then close everything."""
        for work in (self.remeasurer, self.repairer, self.monitor, self.pipeline.decoding.drafts):
            if work is not None:
                await work.aclose()
        await self.pipeline.underway.settle()
        await self.pipeline.memory.aclose()
        await threads.work(self.pipeline.engine.close)
        await threads.work(self.alive.close)


async def start(
    settings: Settings, given: LoadedModel | None, progress: Progress, observers: list[Observer]
) -> Started:
    """Open the memory, load the model, and let go what ended processes and lowered limits leave behind.

    Args:
        settings: The settings.
        given: A model that is in memory already.
        progress: Called with one line at each slow step.
        observers: Told of every finished turn.

    Raises:
        SemShareError: something of it cannot be had; nothing stays open then.
    """
    # What is not allowed is said before anything slow happens.
    matcher, strategy = make_matcher(settings.matching), make_strategy(settings.strategy)
    packing, cipher = make_packing(settings.kv_codec), make_cipher(settings.encryption_keys)
    options = PolicyOptions(settings.ttl_seconds, moved=settings.reuse.allows(Reuse.MOVED))
    policies = {tier: make_policy(name, options) for tier, name in settings.evictions.items()}
    async with AsyncExitStack() as undo:
        leases, engine = Leases(), Engine(settings.step_seconds)
        undo.push_async_callback(threads.work, engine.close)
        tiers = await threads.work(lambda: Tiers(make_tiers(settings, packing, policies, leases, cipher), leases))
        undo.push_async_callback(threads.work, tiers.close)
        alive, alone = await threads.work(announce, settings.home)
        undo.callback(alive.close)
        registry = await open_registry(settings, alone, cipher)
        undo.push_async_callback(registry.close)
        await recover(registry, tiers, alone)
        fcntl.flock(alive, fcntl.LOCK_SH)
        model = given if given is not None else await engine.call(lambda: _load(settings, progress))
        cost = await engine.call(lambda: _measured(settings, model, progress))
        calibration = await threads.work(calibration_for, settings.home, model.fingerprint)
        tiers.costs = cost
        engine.scheduler.predict = None if cost is None else cost.pass_seconds
        memory = Memory(registry, tiers, BlockSpec(model, packing, settings.block_tokens), engine.idle)
        await hold_to_limits(memory, settings)
        # Whoever wants less KV on the device does not want free buffers there either.
        runs = Runs(model, 2 if settings.retention == "off" else 0)
        loader = Loader(memory, engine, runs, model.support.mover)
        planner = Planner(
            Lexicon(model),
            strategy,
            plan_settings(settings),
            cost,
            calibration,
            matcher,
            settings.similarity_threshold,
            settings.fact_guard,
        )
        repairer = Repairer(loader) if settings.repair_idle else None
        remeasurer = None
        if cost is not None and model.support.rows is not None and settings.measure_idle:
            measuring = partial(Measuring, model.support.rows, model.context_tokens, runs.pool)
            place = path_of(settings.home, model.fingerprint), setting_of(model.support.rows)
            remeasurer = Remeasurer(engine, measuring, cost, partial(keep, *place))
            remeasurer.check()
            observers.append(remeasurer)
        monitor = make_monitor(settings, loader, repairer, observers)
        pipeline = Pipeline(
            model=model,
            memory=memory,
            engine=engine,
            underway=Underway(memory, planner.worth_waiting),
            planner=planner,
            loader=loader,
            output=OutputControl(model.tokenizer, model.end_tokens, settings.control_tokens),
            decoding=decoding(settings, registry, cost),
            followers=Followers(monitor, repairer, observers),
        )
        undo.pop_all()
        return Started(pipeline, repairer, monitor, remeasurer, alive)


def _load(settings: Settings, progress: Progress) -> LoadedModel:
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    progress("loading the model")
    model = load(settings.model, settings.home, settings.device, settings.dtype, progress, settings.reorder_weights)
    # A full collection that walks the libraries' objects keeps every thread waiting for a quarter of a second.
    gc.collect()
    gc.freeze()
    return model


def _measured(settings: Settings, model: LoadedModel, progress: Progress) -> CostModel | None:
    rows = model.support.rows
    if rows is None:
        return None
    progress("measuring this machine's speed")
    found = measured(rows, model.context_tokens, model.fingerprint, settings.home, model.name)
    return CostModel(found, rows.token_bytes)


async def open_registry(settings: Settings, alone: bool, cipher: Cipher) -> Registry:
    """The registry that the settings name.

    Args:
        settings: The settings.
        alone: Whether no other process uses the folder, so that its schema may be brought up to date.
        cipher: Encrypts what says anything of texts.
    """
    return await Registry.open(
        settings.registry_url,
        timeout_seconds=settings.database_timeout_seconds,
        upgrade=alone and settings.registry_url.startswith("sqlite"),
        event_rows=settings.event_rows,
        names_key=await threads.work(keys.names_key, settings.home, settings.names_key),
        pools=settings.pools,
        cipher=cipher,
    )


def plan_settings(settings: Settings) -> PlanSettings:
    """How plans are made."""
    return PlanSettings(
        settings.head_tokens,
        settings.tail_tokens,
        settings.semantic_share,
        # A late look needs the whole KV, of which retention keeps a part.
        0.0 if settings.look_late and settings.retention != "off" else settings.look_share,
        settings.look_late,
        settings.min_gain,
        # Hurrying needs the whole KV too, and who says how much a step repairs means it.
        may_hurry=settings.retention == "off" and settings.repair_rows is None,
    )


def decoding(settings: Settings, registry: Registry, cost: CostModel | None) -> Decoding:
    """How answers are decoded."""
    whole = settings.retention == "off"
    return Decoding(
        RepairRate(settings.repair_rows, settings.repair_slowdown, settings.repair_slowdown_semantic),
        None if whole else Retention(settings.retention, settings.retention_share),
        settings.retention_int8,
        # Rows of rejected tokens are overwritten, which a part of the KV does not allow.
        Drafts(registry, StepPrice(cost)) if settings.drafts and whole else None,
    )


def make_monitor(
    settings: Settings, loader: Loader, repairer: Repairer | None, observers: list[Observer]
) -> DriftMonitor:
    """Who samples turns; observers are told of what it measures."""

    async def repaired() -> None:
        if repairer is not None:
            await repairer.settle()

    def measured_drift(sample: DriftSample) -> None:
        for observer in observers:
            observer.drift(sample)

    how = MonitorSettings(settings.guard_share, settings.guard_kl, settings.guard_window, settings.guard_probe_turns)
    return DriftMonitor(loader, how, repaired, settings.guard_seed, measured_drift)


def make_tiers(
    settings: Settings, packing: Packing, policies: dict[str, EvictionPolicy], leases: Leases, cipher: Cipher
) -> list[Tier]:
    """The tiers that have a budget, fastest first."""
    limits = Limits(settings.high_watermark, settings.low_watermark, settings.tenant_bytes)

    def tier(store: BlockStore, budget_bytes: int) -> Tier:
        return Tier(store, budget_bytes, policies[store.name], leases, limits)

    tiers: list[Tier] = []
    if settings.device_bytes:
        device = "cuda" if settings.device == "auto" else settings.device
        tiers.append(tier(DeviceStore(device, packing), settings.device_bytes))
    if settings.memory_bytes:
        tiers.append(tier(MemoryStore(packing=packing), settings.memory_bytes))
    if settings.disk_bytes:
        tiers.append(tier(DiskStore(settings.kv_dir, packing, cipher), settings.disk_bytes))
    return tiers


def announce(home: Path) -> tuple[IO[bytes], bool]:
    """Take the lock that says this process lives; the second value says whether no other one does.

    Who is alone has it exclusively until its start has cleaned up; others wait for that.
    """
    try:
        private.folder(home)
        handle = os.fdopen(private.opened(home / "alive.lock", os.O_WRONLY | os.O_APPEND), "ab")
    except OSError as e:
        raise StoreNotWritableError(f"the folder {home} is not writable ({e.strerror}): give another home") from e
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return handle, True
    except OSError:
        fcntl.flock(handle, fcntl.LOCK_SH)
        return handle, False
