"""Semantic reuse that was asked for and not used has a reason, and the reason is true."""

from __future__ import annotations

import random
import re
from typing import Any

import pytest

from semshare_agents.errors import RegistryUnavailableError
from semshare_agents.llm import SemShareLLM
from semshare_agents.reuse.plan import PlanSettings
from semshare_agents.values import Report, Reuse
from tests import tiny
from tests.conftest import OpenLLM
from tests.pipelines import replan
from tests.tiny import system, user

TEXT, OTHER = tiny.words(60, 1), tiny.words(60, 2)
REWORDED = "".join("q" if at % 11 == 5 else letter for at, letter in enumerate(TEXT))
HEAD = system(tiny.words(20, 3))
EASY = 0.3


def looser(asked: Reuse, report: Report) -> bool:
    """Whether more was asked for than was used."""
    used = Reuse.OFF if report.reuse_class == "cold" else Reuse(report.reuse_class)
    return not used.allows(asked)


async def asked(llm: SemShareLLM, *messages: dict[str, str], **more: Any) -> Report:
    reply = await llm.generate(list(messages), **{"reuse": "semantic", "store": False, **more})
    return reply.report


async def filled(open_llm: OpenLLM, family: str = "llama", **settings: Any) -> SemShareLLM:
    llm = await open_llm(family, **{"similarity_threshold": EASY, **settings})
    await llm.generate([HEAD, user(TEXT)])
    await llm.settle()
    return llm


CASES: dict[str, tuple[dict[str, Any], list[dict[str, str]], dict[str, Any], str, str]] = {
    "used": ({}, [user(REWORDED)], {}, "semantic", "^$"),
    "not similar, all computed": (
        {"similarity_threshold": 1.0},
        [user(REWORDED)],
        {},
        "cold|moved",
        "0.9.*threshold of 1$",
    ),
    "not similar, rest used": ({"similarity_threshold": 1.0}, [HEAD, user(REWORDED)], {}, "moved", "threshold of 1$"),
    "nothing left": ({}, [HEAD, user(TEXT)], {}, "exact", "nothing is left"),
    "nothing like it": ({}, [user("0123456789" * 20)], {}, "cold", "^the likeliest turn has too little"),
    "rest like nothing": ({}, [HEAD, user("0123456789" * 20)], {}, "exact", "no stored turn resembles"),
    "drift": ({}, [user(REWORDED)], {"fidelity": 1e-9}, "cold", "drift is predicted"),
    "cost": ({"speeds": tiny.COLD_WINS}, [user(REWORDED)], {}, "cold", "a cold prefill"),
    "exact alone can be reused": ({"family": "gpt2"}, [HEAD, user(REWORDED)], {}, "exact", "."),
    "no reuse at all": ({"family": "bloom-alibi"}, [HEAD, user(REWORDED)], {}, "cold", "."),
    "window": ({"family": "gemma2"}, [HEAD, user(TEXT + OTHER)], {}, "cold", "window"),
}


@pytest.mark.parametrize("case", CASES)
async def test_the_reason_is_what_happened(open_llm: OpenLLM, case: str) -> None:
    settings, messages, options, used, reason = CASES[case]
    llm = await filled(open_llm, **settings)
    report = await asked(llm, *messages, **options)
    assert report.reuse_class in used.split("|")
    assert bool(report.reason) == looser(Reuse.SEMANTIC, report)
    assert re.search(reason, report.reason), report.reason


async def test_an_empty_memory_is_told_of(open_llm: OpenLLM) -> None:
    report = await asked(await open_llm(), user(REWORDED))
    assert (report.reuse_class, report.reason) == ("cold", "nothing stored matches this prompt")


async def test_matches_that_are_all_computed_are_told_of(open_llm: OpenLLM) -> None:
    llm = await filled(open_llm, semantic_share=1.0)
    report = await asked(llm, HEAD, user(REWORDED))
    assert report.similarity >= EASY
    assert report.tokens["semantic"] == 0
    assert report.reason == "every token with a semantic match is computed again"
    assert report.reason_code == "computed-again"


async def test_blocks_that_are_gone_are_told_of(open_llm: OpenLLM) -> None:
    llm = await filled(open_llm)
    keys = [info.key for info, _ in await llm.pipeline.memory.registry.blocks()]
    for tier in llm.pipeline.memory.tiers.tiers:
        for key in keys:
            tier.store.delete(key)
    report = await asked(llm, user(REWORDED))
    assert report.misses > 0
    assert (report.reuse_class, report.reason_code) == ("cold", "misses"), report.reason
    assert re.search(r"\d+ stored blocks could not be served", report.reason)


async def test_a_memory_that_fails_is_told_of(open_llm: OpenLLM, monkeypatch: pytest.MonkeyPatch) -> None:
    llm = await filled(open_llm)

    async def fail(*_: object) -> None:
        raise RegistryUnavailableError("no")

    monkeypatch.setattr(llm.pipeline.memory.registry, "find_chain", fail)
    report = await asked(llm, user(REWORDED))
    assert (report.reuse_class, report.reason_code) == ("cold", "memory")


@pytest.mark.parametrize("fidelity", ["fast", "balanced", "strict", 0.05])
async def test_whatever_is_asked_there_is_a_reason(open_llm: OpenLLM, fidelity: str | float) -> None:
    """Random prompts over a random memory, at every setting that decides whether semantic reuse is used."""
    rng = random.Random(f"reasons {fidelity}")
    llm = await filled(open_llm, fidelity=fidelity)
    for seed in range(4, 8):
        await llm.generate([user(f"{tiny.words(30, seed)}\n{tiny.words(30, seed + 1)}")])
    seen: dict[str, int] = {}
    for _ in range(30):
        threshold = rng.choice([0.0, 0.3, 0.9, 1.0])
        share = rng.choice([0.0, 0.03, 0.5, 1.0])
        settings = PlanSettings(4, 4, share, 0.3, rng.random() < 0.5, 1.0)
        replan(llm, similarity_threshold=threshold, settings=settings)
        lines = [tiny.words(30, rng.randrange(1, 12)) for _ in range(rng.randrange(1, 4))]
        rate = rng.choice([0.0, 0.05, 0.2, 0.6])
        worded = "\n".join("".join("q" if rng.random() < rate else letter for letter in text) for text in lines)
        report = await asked(llm, *rng.choice([[], [HEAD]]), user(worded))
        if looser(Reuse.SEMANTIC, report):
            assert report.reason
            seen[report.reason_code] = seen.get(report.reason_code, 0) + 1
            if "below the threshold" in report.reason:
                assert report.similarity < llm.pipeline.planner.similarity_threshold
    assert len(seen) >= 2
