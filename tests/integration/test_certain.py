"""Near ties: by default drift does not decide which token a greedy answer takes. The oracle is a cold run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from semshare_agents.llm import SemShareLLM
from semshare_agents.reuse.certain import NEAR_TIE
from semshare_agents.reuse.drift import Calibration
from semshare_agents.turn import compute, pipeline
from semshare_agents.values import Generation
from tests import tiny
from tests.conftest import OpenLLM
from tests.pipelines import replan
from tests.tiny import system, user

LITTLE = Calibration("", (1e-12,) * 6, 1.0, 0)
"""Next to no drift is predicted: next to every lead is wide."""
CALM = {"repair_idle": False, "repair_rows": None, "repair_slowdown": 0.0}
Messages = Sequence[dict[str, str]]


def every_lead_is_narrow(patch: pytest.MonkeyPatch, first: float = 1e9) -> None:
    patch.setattr(compute, "FIRST_SPREADS", first)
    patch.setattr(pipeline, "LATER_SPREADS", 1e9)


def chat(seed: int) -> tuple[Messages, Messages]:
    """A chat, and the same after another system prompt."""
    body = user(" ".join(tiny.words(30, 10 * seed + part) for part in range(3)))
    return [system("be brief"), body], [system(f"answer at length, {tiny.words(6, seed)}"), body]


async def answered(llm: SemShareLLM, messages: Messages, **options: Any) -> Generation:
    return await llm.generate(messages, store=False, max_new_tokens=10, **options)


async def drifted(llm: SemShareLLM, at_first: bool) -> Messages:
    """A chat to which reuse gives another token than a cold run: the first one, or a later one."""
    for seed in range(60):
        before, messages = chat(seed)
        await llm.generate(before, max_new_tokens=1)
        cold = (await answered(llm, messages, reuse="off")).tokens
        fast = (await answered(llm, messages, fidelity="fast")).tokens
        if fast != cold and (fast[0] != cold[0]) == at_first:
            return messages
    raise AssertionError("drift changes no answer of this model")


async def test_a_first_token_that_drift_would_change_is_the_cold_one(
    open_llm: OpenLLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    llm = await open_llm(**CALM)
    messages = await drifted(llm, at_first=True)
    cold = await answered(llm, messages, reuse="off")
    replan(llm, calibration=LITTLE)
    missed = await answered(llm, messages, fidelity="auto")
    assert missed.tokens[0] != cold.tokens[0]
    assert missed.report.reuse_class == "moved"
    every_lead_is_narrow(monkeypatch)
    found = await answered(llm, messages, fidelity="auto")
    assert found.tokens == cold.tokens
    report = found.report
    assert report.reason == NEAR_TIE.text
    assert report.reason_code == "near-tie"
    assert report.tokens["moved"] == 0
    assert report.exact_tokens == sum(report.tokens.values())
    assert report.drift_kl == 0
    assert report.stages_seconds["compute"] <= report.ttft_seconds


async def test_a_later_token_that_drift_would_change_is_the_cold_one(
    open_llm: OpenLLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first token is taken as it is, and reported so; what follows is exact before a near tie is drawn."""
    llm = await open_llm(**CALM)
    messages = await drifted(llm, at_first=False)
    cold = await answered(llm, messages, reuse="off")
    every_lead_is_narrow(monkeypatch, first=0.0)
    found = await answered(llm, messages, fidelity="auto")
    assert found.tokens == cold.tokens
    assert found.report.reuse_class == "moved"
    assert found.report.reason == ""


@pytest.mark.parametrize(
    ("options", "computed"),
    [
        ({"fidelity": "auto"}, True),
        ({"fidelity": 1e4}, True),
        ({"fidelity": "auto", "temperature": 0.5, "seed": 1}, False),
        ({"fidelity": "fast"}, False),
    ],
)
async def test_whose_near_ties_are_computed(
    open_llm: OpenLLM, options: dict[str, Any], computed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    llm = await open_llm(**CALM)
    before, messages = chat(0)
    await llm.generate(before, max_new_tokens=1)
    every_lead_is_narrow(monkeypatch)
    report = (await answered(llm, messages, **options)).report
    assert (report.reason == NEAR_TIE.text) == (report.tokens["moved"] == 0) == computed


@pytest.mark.parametrize("settings", [{"repair_rows": 0}, {"retention": "constant"}])
async def test_who_says_how_much_is_computed_gets_no_more(
    open_llm: OpenLLM, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    llm = await open_llm(**{**CALM, "fidelity": 1e4, **settings})
    before, messages = chat(0)
    await llm.generate(before, max_new_tokens=1)
    every_lead_is_narrow(monkeypatch)
    assert (await answered(llm, messages)).report.reuse_class == "moved"


async def test_what_is_remembered_of_a_near_tie_is_exact(open_llm: OpenLLM, monkeypatch: pytest.MonkeyPatch) -> None:
    llm = await open_llm(**CALM)
    before, messages = chat(0)
    await llm.generate(before, max_new_tokens=1)
    with monkeypatch.context() as patch:
        every_lead_is_narrow(patch)
        told = await llm.generate(messages, max_new_tokens=10, fidelity="auto")
    assert told.report.reason == NEAR_TIE.text
    again = await answered(llm, messages, reuse="exact")
    assert again.report.exact_tokens > told.report.exact_tokens - llm.settings.block_tokens
    assert again.tokens == (await answered(llm, messages, reuse="off")).tokens
