"""The guard on a tiny model: sampled turns are measured, who drifts too far is narrowed, and widened again."""

from __future__ import annotations

import asyncio
import json
import threading
from collections import deque
from typing import Any

import pytest
import torch
from sqlalchemy import select

from semshare_agents.background.drift import MonitorSettings, judge
from semshare_agents.cli.main import app
from semshare_agents.errors import ConfigurationError
from semshare_agents.llm import SemShareLLM
from semshare_agents.model.generate import Sampler
from semshare_agents.model.rows import RowModel
from semshare_agents.registry import tables as t
from semshare_agents.settings import load_settings
from semshare_agents.values import Generation, Reuse
from tests import tiny
from tests.conftest import OpenLLM
from tests.pipelines import broken
from tests.tiny import system, user

BODY = user(tiny.words(120, 3))
BROKEN = frozenset({"zero-kv"})
GUARDED: dict[str, Any] = {"guard_share": 1.0, "guard_window": 2, "guard_probe_turns": 3, "repair_idle": True}


def moved(number: int) -> list[dict[str, str]]:
    """The same text behind a beginning of its own."""
    return [system(f"{number} {tiny.words(4, 100 + number)}"), BODY]


async def rows_of(llm: SemShareLLM, table: Any) -> list[Any]:
    async with llm.pipeline.memory.registry.database.reading() as connection:
        return list(await connection.execute(select(table).order_by(table.c.id)))


async def ask(llm: SemShareLLM, number: int, **options: Any) -> Generation:
    generation = await llm.generate(moved(number), **options)
    await llm.settle()
    return generation


@pytest.mark.parametrize("repair", [False, True])
async def test_figures_are_those_of_a_stock_cold_run(
    open_llm: OpenLLM, monkeypatch: pytest.MonkeyPatch, repair: bool
) -> None:
    llm = await open_llm(**{**GUARDED, "repair_idle": repair}, guard_kl=1e6, max_new_tokens=9)
    await ask(llm, 0)
    seen: list[torch.Tensor] = []
    draw = Sampler.next

    def watched(self: Sampler, logits: torch.Tensor) -> int:
        seen.append(logits.clone())
        return draw(self, logits)

    monkeypatch.setattr(Sampler, "next", watched)
    generation = await ask(llm, 1)
    assert generation.report.reuse_class == "moved"
    assert generation.report.reason == ""
    (sample,) = await rows_of(llm, t.guard_samples)

    prompt = llm.pipeline.model.tokenizer.apply_chat_template(moved(1), add_generation_prompt=True)["input_ids"]
    tokens = torch.tensor([[*prompt, *generation.tokens]])
    with torch.inference_mode():
        stock = tiny.build("llama")(tokens).logits[0, len(prompt) - 1 : -1].double()
    reused = torch.stack(seen).double()
    assert len(stock) == len(reused) == len(generation.tokens)
    p, q = stock.log_softmax(-1), reused.log_softmax(-1)
    expected = torch.nn.functional.kl_div(q, p, log_target=True, reduction="none").sum(-1).mean()
    assert sample.kl == pytest.approx(float(expected), rel=1e-3, abs=1e-7)
    assert sample.kl > 1e-5
    assert sample.agreement == pytest.approx(float((p.argmax(-1) == q.argmax(-1)).double().mean()))
    assert (sample.turn_id, sample.tokens, sample.reuse_class) == (
        generation.report.turn_id,
        len(generation.tokens),
        "moved",
    )


async def test_drift_narrows_is_remembered_and_recovers(open_llm: OpenLLM) -> None:
    settings = {**GUARDED, "guard_kl": 0.03}
    llm = await open_llm(**settings)
    talk: dict[str, Any] = {"session": "talk"}
    await ask(llm, 0, **talk)
    count = 1
    while not await rows_of(llm, t.guard_limits):
        with broken(llm, BROKEN):
            bad = await ask(llm, count, **talk)
        assert (bad.report.reuse_class, bad.report.reason) == ("moved", "")
        count += 1
        assert count < 5
    limits = await rows_of(llm, t.guard_limits)
    assert [row.reuse for row in limits] == ["exact", "exact"]
    assert [row.session_id for row in limits] == [None, 1]
    narrowed = await ask(llm, 10, **talk)
    assert narrowed.report.reuse_class in ("cold", "exact")
    assert narrowed.report.reason.startswith("narrowed to exact by the guard: mean KL ")
    assert "budget 0.03" in narrowed.report.reason
    # Another tenant never drifted.
    other = await ask(llm, 11, tenant="rival")
    assert "guard" not in other.report.reason
    # Who asks for no more than is allowed is not narrowed.
    assert "guard" not in (await ask(llm, 12, reuse="exact", **talk)).report.reason
    await llm.aclose()

    again = await open_llm(**settings)
    still = await ask(again, 13, **talk)
    assert still.report.reason.startswith("narrowed to exact by the guard: mean KL ")
    # The drift is over: probes find moved turns as good as they are without damage.
    classes = []
    for number in range(20, 40):
        later = await ask(again, number, **talk)
        classes.append(later.report.reuse_class)
        if not later.report.reason:
            break
    assert later.report.reuse_class == "moved"
    assert later.report.reason == ""
    probes = [c for c in classes[:-1] if c == "moved"]
    assert len(probes) == 2
    assert {row.reuse for row in await rows_of(again, t.guard_limits)} == {"moved"}
    events = [row for row in await rows_of(again, t.events) if row.kind in ("narrow", "widen")]
    assert [row.kind for row in events] == ["narrow", "narrow", "widen", "widen"]
    assert "session talk of tenant default, reuse up to exact: mean KL" in events[1].detail
    assert all(row.turn_id for row in events)


async def test_semantic_drift_leaves_moved_reuse_alone(open_llm: OpenLLM) -> None:
    llm = await open_llm(**GUARDED, guard_kl=1e-9, similarity_threshold=0.3)
    text = tiny.words(120, 50)
    reworded = "".join("q" if at % 11 == 5 else letter for at, letter in enumerate(text))
    await llm.generate([user(text)])
    loose = await llm.generate([user(reworded)], reuse="semantic")
    await llm.settle()
    assert loose.report.reuse_class == "semantic"
    assert {row.reuse for row in await rows_of(llm, t.guard_limits)} == {"moved"}
    (sample,) = await rows_of(llm, t.guard_samples)
    assert sample.reuse_class == "semantic"
    after = await llm.generate([user(reworded[:200] + " " + reworded)], reuse="semantic", store=False)
    assert after.report.reuse_class != "semantic"
    assert "narrowed to moved by the guard" in after.report.reason


async def test_a_session_is_narrowed_without_its_tenant(open_llm: OpenLLM) -> None:
    llm = await open_llm(**{**GUARDED, "guard_window": 3}, guard_kl=1e6)
    await ask(llm, 0)
    for number in range(1, 4):
        await ask(llm, number, session="good")
    scope = await llm.pipeline.memory.registry.scope("default", llm.pipeline.model.fingerprint)
    samples = [row.kl for row in await rows_of(llm, t.guard_samples)]
    assert await llm.pipeline.memory.registry.drift(scope, "good", "moved", 0.0, 10) == samples
    assert await llm.pipeline.memory.registry.drift(scope, None, "moved", 0.0, 2) == samples[1:]
    assert await llm.pipeline.memory.registry.drift(scope, "nobody", "moved", 0.0, 2) == []
    with broken(llm, BROKEN):
        worst = await ask(llm, 4, session="bad")
    assert worst.report.reuse_class == "moved"
    (*_, bad) = await rows_of(llm, t.guard_samples)
    await llm.aclose()
    # A budget between the two: with one bad sample of three the tenant stays within it, the bad session does not.
    budget = (sum(samples[-1:]) + 2 * bad.kl) / 3 * 0.9
    again = await open_llm(**{**GUARDED, "guard_window": 3}, guard_kl=budget)
    for number in (5, 50):
        assert "guard" not in (await ask(again, number, session="good")).report.reason
    for number in range(6, 12):
        with broken(again, BROKEN):
            await ask(again, number, session="bad")
        await ask(again, 100 + number, session="good")
        await ask(again, 200 + number, session="good")
    limits = {row.session_id: row.reuse for row in await rows_of(again, t.guard_limits)}
    assert limits == {2: "exact"}


async def test_a_call_ends_the_measurement_and_it_goes_on_later(
    open_llm: OpenLLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    llm = await open_llm(**{**GUARDED, "repair_idle": False}, guard_kl=1e6)
    await ask(llm, 0)
    begun, release = asyncio.Event(), threading.Event()
    loop, together = asyncio.get_running_loop(), RowModel.together

    def slow(self: RowModel, parts: Any, stop: Any = None, keeps: bool = False) -> Any:
        if stop in llm.pipeline.engine.idle._stops and not release.is_set():
            loop.call_soon_threadsafe(begun.set)
            assert stop.wait(10), "a call came and the guard was not told to end"
            release.set()
        return together(self, parts, stop, keeps)

    monkeypatch.setattr(RowModel, "together", slow)
    await llm.generate(moved(1))
    await asyncio.wait_for(begun.wait(), 10)
    assert await rows_of(llm, t.guard_samples) == []
    answer = await asyncio.wait_for(llm.generate([user("something else")], store=False), 10)
    assert answer.text
    assert release.is_set()
    await llm.settle()
    assert len(await rows_of(llm, t.guard_samples)) == 1


async def test_closing_gives_up_what_is_not_measured(open_llm: OpenLLM, monkeypatch: pytest.MonkeyPatch) -> None:
    llm = await open_llm(**{**GUARDED, "repair_idle": False}, guard_kl=1e6)
    await ask(llm, 0)
    begun, loop, together = asyncio.Event(), asyncio.get_running_loop(), RowModel.together

    def slow(self: RowModel, parts: Any, stop: Any = None, keeps: bool = False) -> Any:
        if stop in llm.pipeline.engine.idle._stops:
            loop.call_soon_threadsafe(begun.set)
            assert stop.wait(10), "the guard closes and the forward was not told to end"
        return together(self, parts, stop, keeps)

    monkeypatch.setattr(RowModel, "together", slow)
    await llm.generate(moved(1))
    await llm.generate(moved(2))
    await asyncio.wait_for(begun.wait(), 10)
    await asyncio.wait_for(llm.aclose(), 10)
    again = await open_llm()
    assert await rows_of(again, t.guard_samples) == []


async def test_nothing_is_sampled_or_narrowed_without_a_guard(open_llm: OpenLLM) -> None:
    llm = await open_llm(guard_share=0.0)
    await ask(llm, 0)
    with broken(llm, BROKEN):
        turn = await ask(llm, 1)
    assert turn.report.reuse_class == "moved"
    assert await rows_of(llm, t.guard_samples) == []


async def test_turns_that_are_not_stored_leave_no_sample(open_llm: OpenLLM) -> None:
    llm = await open_llm(**GUARDED)
    await ask(llm, 0)
    assert (await ask(llm, 1, store=False)).report.reuse_class == "moved"
    assert await rows_of(llm, t.guard_samples) == []


async def test_the_share_is_drawn_by_the_seed(open_llm: OpenLLM, tmp_path: Any) -> None:
    async def sampled(home: str, seed: int) -> list[bool]:
        settings = {**GUARDED, "guard_share": 0.5, "repair_idle": False}
        llm = await open_llm(home=tmp_path / home, **settings, guard_kl=1e6, guard_seed=seed)
        turns = [await ask(llm, number) for number in range(11)][1:]
        measured = {row.turn_id for row in await rows_of(llm, t.guard_samples)}
        return [turn.report.turn_id in measured for turn in turns]

    one = await sampled("one", 5)
    assert one == await sampled("same", 5)
    assert 0 < sum(one) < len(one)
    assert one != await sampled("other", 6)


async def test_stats_shows_drift_and_limits(open_llm: OpenLLM) -> None:
    from typer.testing import CliRunner

    llm = await open_llm(**GUARDED, guard_kl=1e-9)
    await ask(llm, 0)
    await ask(llm, 1, session="talk")
    (sample,) = await rows_of(llm, t.guard_samples)
    home = str(llm.settings.home)
    await llm.aclose()
    runner = CliRunner(env={"COLUMNS": "160"})
    result = await asyncio.to_thread(runner.invoke, app, ["stats", "--json", "--home", home])
    guard = json.loads(result.output)["guard"]
    assert guard["samples"] == {
        "moved": {"samples": 1, "kl_mean": pytest.approx(sample.kl), "agreement": sample.agreement}
    }
    assert [(row["tenant"], row["session"], row["reuse"]) for row in guard["limits"]] == [
        ("default", None, "exact"),
        ("default", "talk", "exact"),
    ]
    shown = (await asyncio.to_thread(runner.invoke, app, ["stats", "--home", home])).output
    assert f"{sample.kl:.4f}" in shown
    assert "what is narrowed" in shown
    assert "talk" in shown


@pytest.mark.parametrize(
    ("limit", "reuse", "window", "expected"),
    [
        (Reuse.SEMANTIC, Reuse.SEMANTIC, [0.1, 0.1, 0.1, 0.1], None),
        (Reuse.SEMANTIC, Reuse.SEMANTIC, [0.1, 0.1, 0.1, 0.11], Reuse.MOVED),
        (Reuse.SEMANTIC, Reuse.MOVED, [0.2, 0.2, 0.2, 0.2], Reuse.EXACT),
        (Reuse.SEMANTIC, Reuse.MOVED, [0.41], Reuse.EXACT),
        (Reuse.SEMANTIC, Reuse.MOVED, [0.39], None),
        (Reuse.MOVED, Reuse.MOVED, [0.2, 0.2, 0.2, 0.2], Reuse.EXACT),
        (Reuse.MOVED, Reuse.SEMANTIC, [0.05, 0.05, 0.05], None),
        (Reuse.MOVED, Reuse.SEMANTIC, [0.05, 0.05, 0.05, 0.04], Reuse.SEMANTIC),
        (Reuse.MOVED, Reuse.SEMANTIC, [0.06, 0.06, 0.06, 0.06], None),
        (Reuse.EXACT, Reuse.MOVED, [0.0, 0.0, 0.0, 0.0], Reuse.MOVED),
        (Reuse.EXACT, Reuse.SEMANTIC, [0.0, 0.0, 0.0, 0.0], None),
    ],
)
def test_judgement(limit: Reuse, reuse: Reuse, window: list[float], expected: Reuse | None) -> None:
    assert judge(limit, reuse, deque(window), MonitorSettings(1.0, 0.1, 4, 8)) is expected


@pytest.mark.parametrize(
    "bad", [{"guard_share": 1.1}, {"guard_kl": 0.0}, {"guard_window": 0}, {"guard_probe_turns": 0}]
)
def test_bad_settings_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(bad))):
        load_settings(**bad)
