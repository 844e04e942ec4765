"""Repair on a tiny model: approximate turns become exact, in decoding steps and in idle time."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from semshare_agents.llm import SemShareLLM
from semshare_agents.model.rows import RowModel
from semshare_agents.model.run import RowRun
from semshare_agents.request.request import Request
from semshare_agents.values import Donor, Generation, Reuse, Sampling
from tests import tiny
from tests.conftest import OpenLLM
from tests.pipelines import replan
from tests.tiny import assistant, system, user

STORY = [tiny.words(30, seed) for seed in range(8)]
BODY = user(" ".join(STORY[:4]))
CHANGED = [system("answer at length, with care"), BODY]


async def moved_turn(llm: SemShareLLM, **options: Any) -> Generation:
    await llm.generate([system("be brief"), BODY])
    generation = await llm.generate(CHANGED, **options)
    assert generation.report.reuse_class == "moved"
    return generation


async def donor(llm: SemShareLLM, turn_id: int | None) -> Donor:
    assert turn_id is not None
    memory = llm.pipeline.memory
    return (await memory.registry.donors(await memory.scope("default"), [turn_id]))[0]


async def stored_and_true(llm: SemShareLLM, turn_id: int | None) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """A turn's KV out of the store, and a cold run's over the same tokens."""
    who, pipeline = await donor(llm, turn_id), llm.pipeline
    assert pipeline.model.support.rows is not None
    assert pipeline.loader.runs.pool is not None
    buffer = pipeline.loader.runs.pool.acquire(len(who.tokens))
    pipeline.model.support.rows.forward(who.tokens, np.arange(len(who.tokens)), buffer)
    true = buffer[:, :, :, : len(who.tokens)].numpy()
    found = np.zeros_like(true)
    scope = await pipeline.memory.scope("default")
    for block in who.blocks:
        from semshare_agents.store.base import BlockInfo

        info = BlockInfo(block.key, scope.fingerprint, block.stored_tokens)
        kv = pipeline.memory.tiers.load([info]).kv[block.key]
        found[:, :, :, block.start : block.start + block.length] = kv[:, :, :, : block.length].numpy()
    return found, true


async def follows_exactly(llm: SemShareLLM, moved: Generation) -> None:
    """The turn serves the next one as an exact donor, with a cold run's answer."""
    follow = [*CHANGED, assistant(moved.text), user("go on")]
    cold = await llm.generate(follow, reuse="off", store=False)
    later = await llm.generate(follow, reuse="exact", store=False)
    assert later.report.tokens["exact"] >= moved.usage.prompt_tokens
    assert later.tokens == cold.tokens


async def test_steps_carry_the_frontier_to_the_end(open_llm: OpenLLM) -> None:
    llm = await open_llm(repair_rows=200)
    moved = await moved_turn(llm, max_new_tokens=12)
    assert moved.report.exact_tokens < moved.usage.prompt_tokens
    who = await donor(llm, moved.report.turn_id)
    assert who.exact_tokens == len(who.tokens)
    assert who.depth == 0
    found, true = await stored_and_true(llm, moved.report.turn_id)
    assert np.abs(found - true).max() < 1e-4
    await follows_exactly(llm, moved)


async def test_a_few_rows_a_step_move_the_frontier_so_far(open_llm: OpenLLM) -> None:
    llm = await open_llm(repair_rows=10)
    moved = await moved_turn(llm, max_new_tokens=6)
    who = await donor(llm, moved.report.turn_id)
    steps = len(moved.tokens) - 1
    assert who.exact_tokens == moved.report.exact_tokens + 10 * steps
    found, true = await stored_and_true(llm, moved.report.turn_id)
    assert np.abs(found - true)[:, :, :, : who.exact_tokens].max() < 1e-4
    assert np.abs(found - true)[:, :, :, who.exact_tokens :].max() > 1e-2
    follow = [*CHANGED, assistant(moved.text), user("go on")]
    later = await llm.generate(follow, reuse="exact", store=False)
    assert later.report.tokens["exact"] == who.exact_tokens


async def test_turns_with_semantic_reuse_repair_faster(open_llm: OpenLLM) -> None:
    llm = await open_llm(repair_rows=None, similarity_threshold=0.3)
    cost = tiny.cost(replace(tiny.REUSE_WINS, pass_seconds=1e-4))
    replan(llm, cost=cost)
    text = tiny.words(120, 50)
    reworded = "".join("q" if at % 11 == 5 else letter for at, letter in enumerate(text))
    await llm.generate([user(text)])
    for messages, kind, slowdown in (
        ([user(reworded)], "semantic", 2.0),
        ([system("be wide"), user(text)], "moved", 0.1),
    ):
        prefilled = await llm.pipeline.prefill(Request(messages, "default", Reuse.SEMANTIC, Sampling(max_new_tokens=4)))
        run, before = prefilled.run, prefilled.report.exact_tokens
        assert isinstance(run, RowRun)
        allowed = cost.rows_beside_a_step(run.length, before, slowdown)
        await llm.pipeline.engine.compute(llm.pipeline.next_step(run, 5))
        run.close()
        assert prefilled.report.reuse_class == kind
        assert run.exact - before == allowed > 0


@pytest.mark.parametrize("disk", [True, False])
async def test_idle_time_makes_a_turn_exact(open_llm: OpenLLM, disk: bool) -> None:
    llm = await open_llm(repair_idle=True, **({} if disk else {"disk_bytes": 0}))
    moved = await moved_turn(llm)
    await llm.settle()
    who = await donor(llm, moved.report.turn_id)
    assert who.exact_tokens == len(who.tokens)
    assert who.depth == 0
    found, true = await stored_and_true(llm, moved.report.turn_id)
    assert np.abs(found - true).max() < 1e-4
    await follows_exactly(llm, moved)
    kept = {info.key for info, _ in await llm.pipeline.memory.registry.blocks()}
    for tier in llm.pipeline.memory.tiers.tiers:
        assert {key for key, _ in tier.store.entries()} <= kept


async def test_repair_leaves_other_turns_their_blocks(open_llm: OpenLLM) -> None:
    llm = await open_llm(repair_idle=True, repair_rows=0)
    moved = await moved_turn(llm)
    # Shares the approximate blocks of the turn before it.
    follow = [*CHANGED, assistant(moved.text), user(STORY[5])]
    after = await llm.generate(follow, reuse="moved")
    await llm.settle()
    for generation in (moved, after):
        who = await donor(llm, generation.report.turn_id)
        assert who.stored().all()
        assert who.exact_tokens == len(who.tokens)
        found, true = await stored_and_true(llm, generation.report.turn_id)
        assert np.abs(found - true).max() < 1e-4


async def test_a_call_ends_the_repair_under_way_and_it_goes_on_later(
    open_llm: OpenLLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    llm = await open_llm(repair_idle=True)
    begun, stopped = asyncio.Event(), []
    loop, release = asyncio.get_running_loop(), threading.Event()
    together = RowModel.together

    def slow(self: RowModel, parts: Any, stop: Any = None, keeps: bool = False) -> Any:
        if stop in llm.pipeline.engine.idle._stops and not release.is_set():
            loop.call_soon_threadsafe(begun.set)
            assert stop.wait(10), "a call came and the repair was not told to end"
            release.set()
            stopped.append(True)
        return together(self, parts, stop, keeps)

    monkeypatch.setattr(RowModel, "together", slow)
    moved = await moved_turn(llm)
    await asyncio.wait_for(begun.wait(), 10)
    other = await asyncio.wait_for(llm.generate([user("something else")], store=False), 10)
    assert other.text
    assert stopped
    await llm.settle()
    who = await donor(llm, moved.report.turn_id)
    assert who.exact_tokens == len(who.tokens)


async def test_closing_keeps_what_was_repaired(open_llm: OpenLLM, monkeypatch: pytest.MonkeyPatch) -> None:
    llm = await open_llm(repair_idle=True)
    reached = asyncio.Event()
    loop = asyncio.get_running_loop()
    from semshare_agents.model.run import RowRun, Step

    compute = RowRun.compute
    calls: list[Step] = []

    def counted(self: RowRun, step: Step) -> torch.Tensor:
        if step.length == self.length:  # a step that repairs
            if calls:
                loop.call_soon_threadsafe(reached.set)
                assert self.stop.wait(10)
            calls.append(step)
        return compute(self, step)

    monkeypatch.setattr(RowRun, "compute", counted)
    moved = await moved_turn(llm)
    await asyncio.wait_for(reached.wait(), 10)
    await llm.aclose()
    again = await open_llm()
    who = await donor(again, moved.report.turn_id)
    assert moved.report.exact_tokens < who.exact_tokens < len(who.tokens)
    later = await again.generate(CHANGED, reuse=Reuse.EXACT, store=False)
    assert later.report.tokens["exact"] == min(who.exact_tokens, later.usage.prompt_tokens)


async def test_repair_without_room_changes_nothing(open_llm: OpenLLM) -> None:
    llm = await open_llm(repair_idle=True, disk_bytes=0, high_watermark=1.0)
    moved = await moved_turn(llm)
    tier = llm.pipeline.memory.tiers.tiers[0]
    tier.budget_bytes = tier.used_bytes
    held = [info.key for info, _ in await llm.pipeline.memory.registry.blocks()]
    with llm.pipeline.memory.tiers.leases.hold(held):
        await llm.settle()
    who = await donor(llm, moved.report.turn_id)
    assert who.exact_tokens == moved.report.exact_tokens
    assert who.stored().all()
