"""Speeds heal, disks teach, and times to the first token are what callers feel."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
from typer.testing import CliRunner

from semshare_agents.background import speeds as remeasure
from semshare_agents.cli.main import app
from semshare_agents.doctor import Check, State
from semshare_agents.doctor.model import speeds_check
from semshare_agents.kv.packing import Packed
from semshare_agents.llm import SemShareLLM
from semshare_agents.observe.export import exported
from semshare_agents.observe.reuse_map import turn_map
from semshare_agents.reuse import measure, speeds
from semshare_agents.reuse.speeds import Measurement, keep, kept, path_of
from semshare_agents.settings import load_settings
from semshare_agents.store.disk import DiskStore
from semshare_agents.timing import delays
from semshare_agents.timing.clock import Clock
from tests import tiny
from tests.serving import serving

OpenLLM = Callable[..., Awaitable[SemShareLLM]]

BUSY = Measurement(tiny.COLD_WINS, at=1.0, delayed=1.2, spread=8.0)
"""A measurement by which reuse never pays, taken while others had the processors."""


@pytest.fixture
def quiet_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever else runs here, measuring finds the machine quiet."""
    monkeypatch.setattr(delays, "_waited_seconds", lambda _: {"thread": 0.0})
    monkeypatch.setattr(speeds, "MOST_SPREAD", 1e9)


async def opened_with(kept_speeds: Measurement, home: Path, open_llm: OpenLLM, **settings: Any) -> SemShareLLM:
    """An adapter that finds these speeds in its home."""
    model = tiny.loaded("llama")
    assert model.support.rows is not None
    llm = await open_llm(home=home, speeds=None)  # makes what a home has
    await llm.aclose()
    path = path_of(home, model.fingerprint)
    path.unlink()
    keep(path, measure.setting_of(model.support.rows), kept_speeds)
    return await SemShareLLM.open(loaded=model, home=home, block_tokens=16, max_new_tokens=4, **settings)


async def test_speeds_of_a_busy_start_are_measured_again_when_idle(
    open_llm: OpenLLM, tmp_path: Path, quiet_machine: None
) -> None:
    llm = await opened_with(BUSY, tmp_path / "home", open_llm)
    try:
        cost = llm.pipeline.planner.cost
        assert cost is not None
        assert cost.measurement.disturbed
        assert llm._running.remeasurer is not None
        await asyncio.wait_for(llm._running.remeasurer.settle(), 60)
        assert not cost.measurement.disturbed
        assert cost.measurement.speeds != tiny.COLD_WINS
        assert abs(cost.measurement.at - time.time()) < 60
    finally:
        await llm.aclose()
    model = tiny.loaded("llama")
    assert model.support.rows is not None
    found = kept(path_of(tmp_path / "home", model.fingerprint), measure.setting_of(model.support.rows))
    assert found is not None
    assert found.speeds == cost.measurement.speeds, "the next start knows them"


async def test_speeds_that_refuse_every_reuse_are_questioned_within_ten_turns(
    open_llm: OpenLLM, tmp_path: Path, quiet_machine: None
) -> None:
    """Measured on a machine that looked quiet, and wrong all the same: every turn runs cold."""
    llm = await opened_with(replace(BUSY, delayed=0.0, spread=1.0, at=time.time()), tmp_path / "home", open_llm)
    try:
        cost = llm.pipeline.planner.cost
        assert cost is not None
        talk = llm.session("s")
        for turn in range(10):
            reply = await talk.send(tiny.words(20, seed=turn))
            assert reply.report.reuse_class == "cold" or cost.measurement.speeds != tiny.COLD_WINS
        assert llm._running.remeasurer is not None
        await asyncio.wait_for(llm._running.remeasurer.settle(), 60)
        assert cost.measurement.speeds != tiny.COLD_WINS
        assert not cost.doubted
    finally:
        await llm.aclose()


async def test_a_call_ends_a_measurement_which_goes_on_afterwards(
    open_llm: OpenLLM, tmp_path: Path, quiet_machine: None
) -> None:
    llm = await opened_with(BUSY, tmp_path / "home", open_llm)
    try:
        cost = llm.pipeline.planner.cost
        assert cost is not None
        for turn in range(4):
            await llm.generate([tiny.user(tiny.words(20, seed=turn))], store=False)
        assert llm._running.remeasurer is not None
        await asyncio.wait_for(llm._running.remeasurer.settle(), 60)
        assert not cost.measurement.disturbed
    finally:
        await llm.aclose()


async def test_callers_who_never_rest_do_not_keep_wrong_speeds(
    open_llm: OpenLLM, tmp_path: Path, quiet_machine: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remeasure, "PATIENCE_SECONDS", 0.2)
    llm = await opened_with(BUSY, tmp_path / "home", open_llm)
    try:
        cost = llm.pipeline.planner.cost
        assert cost is not None
        with llm.pipeline.engine.idle.busy():
            assert llm._running.remeasurer is not None
            await asyncio.wait_for(llm._running.remeasurer.settle(), 60)
        assert not cost.measurement.disturbed
    finally:
        await llm.aclose()


async def test_a_busy_machine_is_left_alone_for_a_while(
    open_llm: OpenLLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks = iter(range(10**9))
    monkeypatch.setattr(delays, "_waited_seconds", lambda _: {"thread": float(next(ticks))})
    monkeypatch.setattr(remeasure, "AGAIN_SECONDS", 1000.0)
    seen: list[str] = []
    added = measure.Measuring.add
    monkeypatch.setattr(measure.Measuring, "add", lambda self, name, took: (seen.append(name), added(self, name, took)))
    llm = await opened_with(BUSY, tmp_path / "home", open_llm)
    try:
        await asyncio.sleep(1.0)
        assert 1 <= len(seen) <= remeasure.DISTURBED_STEPS
        assert llm.pipeline.planner.cost is not None
        assert llm.pipeline.planner.cost.measurement.speeds == tiny.COLD_WINS
        began = time.monotonic()
    finally:
        await llm.aclose()
    assert time.monotonic() - began < 5, "closing does not wait for the next try"


async def test_a_slow_disk_changes_the_plan(open_llm: OpenLLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks that are on disk alone are loaded while the disk is fast, and computed once it turned out to be slow."""
    fast = replace(tiny.REUSE_WINS, cold_row_seconds=1e-4, cold_pair_seconds=1e-9)
    llm = await open_llm(memory_bytes=0, speeds=fast, block_tokens=128)
    prompt = [tiny.user(tiny.words(330, seed=3))]
    await llm.generate(prompt)
    await llm.flush()
    assert llm.pipeline.planner.cost is not None
    llm.pipeline.memory.tiers.costs = llm.pipeline.planner.cost
    monkeypatch.setattr(
        llm.pipeline.planner.cost, "saw_rows", lambda *_: None
    )  # made-up speeds are far from this machine's
    assert (await llm.generate(prompt, store=False)).report.reuse_class == "exact"
    assert llm.pipeline.planner.cost.disk_loads == 1
    read = DiskStore.get_packed

    def slowly(self: DiskStore, info: Any) -> Packed | None:
        time.sleep(0.1)
        return read(self, info)

    monkeypatch.setattr(DiskStore, "get_packed", slowly)
    reports = [(await llm.generate(prompt, store=False)).report for _ in range(6)]
    assert reports[0].reuse_class == "exact"
    assert reports[-1].reuse_class == "cold"
    assert reports[-1].reason.startswith("reuse would take")


# --- what callers feel


async def felt(pieces: Any, began: float) -> tuple[float, Any]:
    """Seconds to the first piece, and the report."""
    first, generation = None, None
    async for piece in pieces:
        first = time.perf_counter() - began if first is None else first
        generation = piece.generation or generation
    assert first is not None
    return first, generation.report


async def test_eight_callers_at_once_wait_as_long_as_the_reports_say(open_llm: OpenLLM) -> None:
    llm = await open_llm(max_new_tokens=12)
    prompts = [[tiny.user(tiny.words(300, seed=seed))] for seed in range(8)]
    began = time.perf_counter()
    seen = await asyncio.gather(*(felt(llm.stream(prompt), began) for prompt in prompts))
    for seconds, report in seen:
        assert report.ttft_seconds == pytest.approx(seconds, rel=0.05, abs=0.02)
        assert sum(report.stages_seconds.values()) == pytest.approx(report.ttft_seconds)
    waits = [report.stages_seconds["wait"] for _, report in seen]
    assert max(waits) > 2 * min(r.stages_seconds["compute"] for _, r in seen), "one computes, the others wait"


async def test_the_wait_for_a_sessions_turn_before_counts(open_llm: OpenLLM) -> None:
    llm = await open_llm(max_new_tokens=12)
    talk = llm.session("s")
    began = time.perf_counter()
    seen = await asyncio.gather(*(felt(talk.stream(tiny.words(20, seed=seed)), began) for seed in range(4)))
    for seconds, report in seen:
        assert report.ttft_seconds == pytest.approx(seconds, rel=0.05, abs=0.02)
    assert seen[-1][1].stages_seconds["wait"] > seen[0][0]


async def test_a_caller_who_waited_elsewhere_counts_from_there(open_llm: OpenLLM) -> None:
    llm = await open_llm()
    clock = Clock()
    await asyncio.sleep(0.3)
    _, report = await felt(llm.stream([tiny.user("hello there")], clock=clock), time.perf_counter())
    assert report.ttft_seconds >= 0.3


async def test_the_servers_queue_counts(open_llm: OpenLLM) -> None:
    """Three clients where one request at a time is worked on: each feels the ones before it."""
    llm = await open_llm(max_new_tokens=20)
    model = {"model": "tiny-llama", "stream": True}

    async def client(http: httpx.AsyncClient, seed: int) -> tuple[float, dict[str, Any]]:
        began, first, report = time.perf_counter(), 0.0, {}
        body = {**model, "messages": [tiny.user(tiny.words(200, seed=seed))]}
        async with http.stream("POST", "/v1/chat/completions", json=body) as answer:
            async for line in answer.aiter_lines():
                event = json.loads(line[6:]) if line.startswith("data: {") else {}
                if not first and any(choice["delta"].get("content") for choice in event.get("choices", ())):
                    first = time.perf_counter() - began
                report = event.get("semshare", report)
        return first, report

    async with serving(llm, running=1, queue=4) as url, httpx.AsyncClient(base_url=url, timeout=60) as http:
        model["model"] = (await http.get("/v1/models")).json()["data"][0]["id"]
        seen = await asyncio.gather(*(client(http, seed) for seed in range(3)))
    for felt_seconds, report in seen:
        assert report["ttft_seconds"] == pytest.approx(felt_seconds, rel=0.05, abs=0.1)
    in_order = sorted(report["ttft_seconds"] for _, report in seen)
    assert in_order[2] > 1.5 * in_order[0]


async def test_first_pieces_and_not_first_tokens_count(open_llm: OpenLLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """Text that a stop string may begin in is held back, and the caller has nothing meanwhile."""
    llm = await open_llm(max_new_tokens=6)
    prompt = [tiny.user("hello there")]
    text = (await llm.generate(prompt, reuse="off", store=False)).text
    assert len(text) >= 4
    began = time.perf_counter()
    seconds, report = await felt(llm.stream(prompt, stop=(text[:3] + "#",), reuse="off", store=False), began)
    assert report.ttft_seconds == pytest.approx(seconds, rel=0.05, abs=0.02)
    assert report.stages_seconds["first"] > 0
    ended = await llm.generate(prompt, stop=(text[:2],), reuse="off", store=False)
    assert ended.text == ""
    assert ended.report.ttft_seconds > 0, "an answer without a piece: to its end"


async def test_the_cost_model_does_not_learn_from_waiting(open_llm: OpenLLM, quiet_machine: None) -> None:
    llm = await open_llm()
    assert llm.pipeline.planner.cost is not None
    learned: list[float] = []
    saw = llm.pipeline.planner.cost.saw_cold
    llm.pipeline.planner.cost.saw_cold = lambda tokens, seen: (learned.append(seen.seconds), saw(tokens, seen))[1]  # type: ignore[method-assign]
    busy = asyncio.ensure_future(llm.pipeline.engine.call(lambda: time.sleep(1.0)))
    await asyncio.sleep(0)
    reply = await llm.generate([tiny.user(tiny.words(60, seed=1))])
    await busy
    assert reply.report.stages_seconds["wait"] > 0.5
    assert len(learned) == 1
    assert learned[0] == pytest.approx(reply.report.stages_seconds["compute"], rel=0.5, abs=0.02)
    assert learned[0] < 0.5


# --- savings and commands


async def test_savings_stand_in_reports_registry_page_and_metrics(open_llm: OpenLLM, quiet_machine: None) -> None:
    llm = await open_llm()
    prompt = [tiny.user(tiny.words(60, seed=1))]
    async with serving(llm) as url, httpx.AsyncClient(base_url=url) as http:
        cold = (await llm.generate(prompt)).report
        again = (await llm.generate(prompt)).report
        metrics, page = (await http.get("/metrics")).text, (await http.get("/")).text
    assert cold.saved is not None
    assert cold.saved.seconds < 0, "looking for what is not there costs"
    stages = again.stages_seconds
    spent = sum(stages.get(s, 0.0) for s in ("find", "align", "guard", "plan", "load", "compute"))
    assert again.saved is not None
    assert again.saved.seconds == pytest.approx(cold.stages_seconds["compute"] - spent, abs=0.05)
    assert again.saved.low <= again.saved.seconds <= again.saved.high
    totals = await llm.pipeline.memory.registry.savings()
    assert totals["exact"]["known"] == 1
    assert totals["exact"]["seconds"] == pytest.approx(again.saved.seconds)
    lost, won = "semshare_lost_seconds_total", "semshare_saved_seconds_total"
    assert f'{lost}{{class="cold"}}' in metrics
    assert f'{won}{{class="exact"}}' in metrics
    assert "saved, net" in page


async def test_nobody_knows_what_was_saved_without_a_measured_prefill(open_llm: OpenLLM) -> None:
    llm = await open_llm()
    assert llm.pipeline.planner.cost is not None
    prompt = [tiny.user(tiny.words(60, seed=1))]
    await llm.generate(prompt)
    llm.pipeline.planner.cost.colds = type(llm.pipeline.planner.cost.colds)()
    assert (await llm.generate(prompt)).report.saved is None
    assert (await llm.pipeline.memory.registry.savings())["exact"]["unknown"] == 1


async def test_turns_of_earlier_versions_are_shown_without_savings(open_llm: OpenLLM) -> None:
    llm = await open_llm()
    reply = await llm.generate([tiny.user(tiny.words(10, seed=1))])
    assert reply.report.turn_id is not None
    found = await llm.pipeline.memory.registry.turn(reply.report.turn_id)
    assert found is not None
    row, tokens = found
    report = json.loads(row.report)
    assert "of that waiting" in exported(turn_map(row, tokens, None))
    del report["saved"], report["stages_seconds"]["wait"]
    old = replace(row, report=json.dumps(report))
    assert "unknown" in exported(turn_map(old, tokens, None))


def run(*words: str | Path) -> str:
    result = CliRunner(env={"COLUMNS": "140"}).invoke(app, [str(word) for word in words])
    assert result.exit_code == 0, (result.output, result.exception)
    return result.output


def test_the_speeds_command_shows_and_measures(tmp_path: Path) -> None:
    assert "nothing is measured yet" in run("speeds", "--home", tmp_path)
    assert json.loads(run("speeds", "--json", "--home", tmp_path)) == []
    model = tmp_path / "model"
    tiny.build("llama").save_pretrained(model)
    tiny.tokenizer().save_pretrained(model)
    home = tmp_path / "home"
    output = run("speeds", "--measure", "--model", model, "--home", home)
    assert "quality" in output
    assert "next turns are reused" in output
    (row,) = json.loads(run("speeds", "--json", "--home", home))
    assert row["quality"] in ("quiet", "disturbed")
    assert row["model"] == str(model)
    assert abs(row["at"] - time.time()) < 120
    run("speeds", "--measure", "--model", model, "--home", home)
    (later,) = json.loads(run("speeds", "--json", "--home", home))
    assert later["at"] > row["at"]
    assert later["colds"] >= row["colds"]


def test_doctor_says_how_far_speeds_can_be_trusted(tmp_path: Path) -> None:
    loaded, settings = tiny.loaded("llama"), load_settings(home=tmp_path)
    rows = loaded.support.rows
    assert rows is not None

    def checked(measurement: Measurement) -> Check:
        keep(path_of(tmp_path, loaded.fingerprint), measure.setting_of(rows), measurement)
        return speeds_check(settings, loaded)

    assert "not measured yet" in speeds_check(settings, loaded).found
    known = {"token_bytes": rows.token_bytes, "context_tokens": loaded.context_tokens}
    busy = checked(replace(BUSY, at=1e9, **known))
    assert busy.state is State.WARNING
    assert "disturbed" in busy.found
    assert "semshare speeds --measure" in busy.advice
    never = checked(Measurement(tiny.COLD_WINS, at=1.1e9, **known))
    assert never.state is State.WARNING
    assert "never reused" in never.found
    fine = checked(Measurement(tiny.REUSE_WINS, at=1.2e9, **known))
    assert fine.state is State.OK
    assert "tokens on" in fine.found
