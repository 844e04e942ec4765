"""What a turn computes is there for others before it has its answer, and stays where it never gets one."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
import torch

from semshare_agents.engine import scheduler
from semshare_agents.llm import SemShareLLM
from semshare_agents.model.loading import prepare
from semshare_agents.model.rows import RowModel
from semshare_agents.turn import planner
from tests import tiny
from tests.conftest import OpenLLM

DOSSIER = "the boats lie in the harbour and the nets hang over the wall, " * 20
BLOCK = 16


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prompts are computed in chunks of 64 rows, each of which takes a while."""
    together = RowModel.together

    def slowly(self: RowModel, parts: Any, stop: Any = None, keeps: bool = False) -> Any:
        if len(parts[0].rows) > 16:
            time.sleep(0.03)
        return together(self, parts, stop, keeps)

    monkeypatch.setattr(scheduler, "LARGEST_CHUNK", 64)
    # A tiny model's prompts are hardly worth waiting for.
    monkeypatch.setattr(planner, "JOINING_SECONDS", 0.0)
    monkeypatch.setattr(RowModel, "together", slowly)


def asked(text: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": text}]


async def reached(llm: SemShareLLM, tokens: int) -> None:
    """Wait until a turn under way has computed so many tokens."""
    async with asyncio.timeout(20):
        while not any(turn.run.exact >= tokens for turn in llm.pipeline.underway._turns):  # noqa: ASYNC110
            await asyncio.sleep(0.002)


@pytest.mark.usefixtures("slow")
async def test_prompts_that_begin_alike_and_arrive_together_cost_one_prefill(open_llm: OpenLLM) -> None:
    llm = await open_llm(reuse="exact")
    cold = [await llm.generate(asked(f"{DOSSIER}question {i}?"), reuse="off", store=False) for i in range(6)]
    found = await asyncio.gather(*(llm.generate(asked(f"{DOSSIER}question {i}?")) for i in range(6)))
    computed = sum(turn.report.tokens["computed"] for turn in found)
    assert computed <= 1.15 * found[0].usage.prompt_tokens
    assert [turn.tokens for turn in found] == [turn.tokens for turn in cold]
    assert len(await llm.pipeline.memory.registry.browse("default")) == 6


@pytest.mark.usefixtures("slow")
async def test_a_second_question_is_exact_while_the_first_answer_streams(open_llm: OpenLLM) -> None:
    llm = await open_llm(reuse="exact", max_new_tokens=24)
    stream = llm.stream(asked(f"{DOSSIER}first?"))
    async for piece in stream:
        if piece.text:
            break
    second = await llm.generate(asked(f"{DOSSIER}second?"))
    assert second.report.reuse_class == "exact"
    assert second.report.tokens["computed"] < 3 * BLOCK
    assert len(await llm.pipeline.memory.registry.browse("default")) == 1  # the first one has no answer yet
    rest = [piece async for piece in stream]
    first = rest[-1].generation
    assert first is not None
    listed = await llm.pipeline.memory.registry.browse("default")
    assert {turn.id for turn in listed} == {first.report.turn_id, second.report.turn_id}
    assert second.report.donors == {first.report.turn_id: second.report.tokens["exact"]}


@pytest.mark.usefixtures("slow")
async def test_a_retry_starts_where_a_time_out_ended(open_llm: OpenLLM) -> None:
    llm = await open_llm(reuse="exact")
    cold = await llm.generate(asked(DOSSIER), reuse="off", store=False)
    trying = asyncio.ensure_future(llm.generate(asked(DOSSIER), session="talk"))
    await reached(llm, cold.usage.prompt_tokens // 2)
    trying.cancel()
    with pytest.raises(asyncio.CancelledError):
        await trying
    retry = await llm.generate(asked(DOSSIER), session="talk")
    assert retry.report.tokens["exact"] >= cold.usage.prompt_tokens // 2 - BLOCK
    assert retry.report.tokens["exact"] % BLOCK == 0  # never a half block
    assert retry.tokens == cold.tokens
    assert len(await llm.pipeline.memory.registry.browse("default")) == 1
    assert await llm.pipeline.memory.registry.history("default", "talk") == [
        *asked(DOSSIER),
        {"role": "assistant", "content": retry.text},
    ]


@pytest.mark.usefixtures("slow")
async def test_a_stopped_answer_costs_nothing_at_the_next_turn(open_llm: OpenLLM) -> None:
    llm = await open_llm(reuse="exact", max_new_tokens=60)
    stream, text = llm.stream(asked(DOSSIER)), ""
    async for piece in stream:
        text += piece.text
        if len(text) > 40:
            break
    await stream.aclose()
    next_turn = await llm.generate(
        [*asked(DOSSIER), {"role": "assistant", "content": text}, *asked("go on")], max_new_tokens=2
    )
    prompt = await llm.generate(asked(DOSSIER), max_new_tokens=1, store=False)
    assert next_turn.report.tokens["exact"] >= prompt.usage.prompt_tokens - BLOCK


@pytest.mark.usefixtures("slow")
async def test_who_waits_takes_over_where_the_other_one_leaves(open_llm: OpenLLM) -> None:
    llm = await open_llm(reuse="exact")
    cold = await llm.generate(asked(f"{DOSSIER}second?"), reuse="off", store=False)
    first = asyncio.ensure_future(llm.generate(asked(f"{DOSSIER}first?")))
    await reached(llm, 4 * BLOCK)
    second = asyncio.ensure_future(llm.generate(asked(f"{DOSSIER}second?")))
    await asyncio.sleep(0.05)
    first.cancel()
    found = await asyncio.wait_for(second, 20)
    assert found.tokens == cold.tokens
    assert 4 * BLOCK <= found.report.tokens["exact"] < cold.usage.prompt_tokens - 2 * BLOCK
    assert found.report.tokens["computed"] + found.report.tokens["exact"] == cold.usage.prompt_tokens


@pytest.mark.usefixtures("slow")
@pytest.mark.parametrize("how", [{"tenant": "other"}, {"reuse": "off"}])
async def test_another_tenant_and_who_wants_no_reuse_do_not_wait(open_llm: OpenLLM, how: dict[str, Any]) -> None:
    llm = await open_llm(reuse="exact")
    first = asyncio.ensure_future(llm.generate(asked(DOSSIER)))
    await reached(llm, 4 * BLOCK)
    second = await llm.generate(asked(DOSSIER), **how)
    assert second.report.reuse_class == "cold"
    await first


@pytest.mark.usefixtures("slow")
async def test_what_is_not_to_be_remembered_is_never_shared(open_llm: OpenLLM) -> None:
    llm = await open_llm(reuse="exact")
    first = asyncio.ensure_future(llm.generate(asked(DOSSIER), store=False, max_new_tokens=500))
    await asyncio.sleep(0.1)
    second = await llm.generate(asked(DOSSIER))
    assert second.report.reuse_class == "cold"
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert len(await llm.pipeline.memory.registry.browse("default")) == 1


@pytest.mark.usefixtures("slow")
async def test_forgetting_a_session_forgets_what_it_left_unfinished(open_llm: OpenLLM) -> None:
    llm = await open_llm(reuse="exact")
    trying = asyncio.ensure_future(llm.generate(asked(DOSSIER), session="talk"))
    await reached(llm, 8 * BLOCK)
    trying.cancel()
    with pytest.raises(asyncio.CancelledError):
        await trying
    await llm.pipeline.underway.settle()
    assert (await llm.forget(session="talk")).turn_ids
    assert (await llm.generate(asked(DOSSIER))).report.reuse_class == "cold"


@pytest.mark.usefixtures("slow")
async def test_a_session_forgotten_meanwhile_leaves_nothing(open_llm: OpenLLM) -> None:
    llm = await open_llm(reuse="exact")
    await llm.generate(asked("before"), session="talk")
    trying = asyncio.ensure_future(llm.generate(asked(DOSSIER), session="talk"))
    await reached(llm, 8 * BLOCK)
    await llm.forget(session="talk")
    trying.cancel()
    with pytest.raises(asyncio.CancelledError):
        await trying
    await llm.pipeline.underway.settle()
    assert (await llm.generate(asked(DOSSIER))).report.reuse_class == "cold"


async def test_it_survives_a_restart(open_llm: OpenLLM, slow: None) -> None:
    llm = await open_llm(reuse="exact")
    trying = asyncio.ensure_future(llm.generate(asked(DOSSIER)))
    await reached(llm, 8 * BLOCK)
    trying.cancel()
    with pytest.raises(asyncio.CancelledError):
        await trying
    await llm.aclose()
    again = await open_llm(reuse="exact")
    assert (await again.generate(asked(DOSSIER))).report.tokens["exact"] >= 8 * BLOCK - BLOCK


async def test_an_answer_on_a_part_of_the_kv_leaves_whole_blocks(open_llm: OpenLLM, slow: None) -> None:
    llm = await open_llm(reuse="exact", retention="attention", max_new_tokens=12)
    first = await llm.generate(asked(DOSSIER))
    again = await llm.generate(asked(DOSSIER))
    assert first.tokens == again.tokens
    assert again.report.tokens["exact"] > 0


@pytest.mark.usefixtures("slow")
async def test_kv_of_a_model_that_changed_meanwhile_is_never_kept_as_the_first_one_s(open_llm: OpenLLM) -> None:
    model = prepare(tiny.build("llama"), tiny.tokenizer(), "changing")
    llm, weight = await open_llm(model, reuse="exact"), model.model.model.layers[0].mlp.up_proj.weight
    trying = asyncio.ensure_future(llm.generate(asked(DOSSIER), max_new_tokens=600))
    await reached(llm, 4 * BLOCK)
    (turn,) = llm.pipeline.underway._turns
    with torch.no_grad():
        weight.mul_(2.0)
    async with asyncio.timeout(20):
        while turn.registrable:  # noqa: ASYNC110
            await asyncio.sleep(0.002)
    with torch.no_grad():
        weight.mul_(0.5)  # bit by bit as it was
    await asyncio.sleep(0.1)
    trying.cancel()
    with pytest.raises(asyncio.CancelledError):
        await trying
    await llm.flush()
    assert (await llm.generate(asked(DOSSIER))).report.tokens["exact"] == 0
