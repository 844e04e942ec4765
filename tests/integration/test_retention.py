"""Whole turns that answer on a part of their prompt's KV."""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import replace

import numpy as np
import pytest

from semshare_agents.errors import ConfigurationError
from semshare_agents.operate.audit import audit
from semshare_agents.retain import POLICIES
from semshare_agents.retain.run import RetainedRun
from semshare_agents.store.disk import DiskStore
from semshare_agents.turn import Pipeline
from semshare_agents.turn.state import Prefilled
from tests import tiny
from tests.conftest import OpenLLM
from tests.pipelines import use
from tests.tiny import assistant, user

STORY = " ".join(tiny.words(30, seed) for seed in range(4))


@pytest.mark.parametrize("policy", POLICIES)
async def test_keeping_everything_changes_no_answer(open_llm: OpenLLM, policy: str) -> None:
    llm = await open_llm(retention=policy, retention_share=1.0)
    narrowed = await llm.generate([user(STORY)], store=False)
    use(llm, replace(llm.pipeline, decoding=replace(llm.pipeline.decoding, retention=None)))
    assert narrowed.tokens == (await llm.generate([user(STORY)], store=False)).tokens


async def test_an_answer_is_decoded_on_less(open_llm: OpenLLM, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, int]] = []
    retain = Pipeline._retain

    async def watched(self: Pipeline, prefilled: Prefilled) -> None:
        whole = getattr(prefilled.run, "capacity", 0) * getattr(prefilled.run, "token_bytes", 0)
        await retain(self, prefilled)
        assert isinstance(prefilled.run, RetainedRun)
        if whole:
            seen.append((prefilled.run.nbytes, whole))

    monkeypatch.setattr(Pipeline, "_retain", watched)
    llm = await open_llm(retention="decay", retention_share=0.4)
    await llm.generate([user(" ".join([STORY] * 3))], max_new_tokens=8)
    [(kept, whole)] = seen
    assert kept < 0.6 * whole
    assert llm.pipeline.loader.runs.pool is not None
    assert not llm.pipeline.loader.runs.pool._free


async def test_the_prompt_is_stored_whole_and_the_answer_is_not_trusted(open_llm: OpenLLM) -> None:
    llm = await open_llm(retention="constant", retention_share=0.5)
    first = await llm.generate([user(STORY)], max_new_tokens=12)
    await llm.flush()
    [donor] = await llm.pipeline.memory.registry.donors(
        await llm.pipeline.memory.registry.scope("default", llm.pipeline.memory.spec.fingerprint),
        [first.report.turn_id or 0],
    )
    # What was computed before the KV was narrowed is exact, the rest of the answer is not stored.
    assert first.usage.prompt_tokens <= len(donor.tokens) < first.usage.prompt_tokens + len(first.tokens) - 1
    assert donor.exact_tokens == len(donor.tokens)
    assert donor.stored().all()
    follow = [user(STORY), assistant(first.text), user("and then?")]
    use(llm, replace(llm.pipeline, decoding=replace(llm.pipeline.decoding, retention=None)))
    cold = await llm.generate(follow, reuse="off", store=False)
    again = await llm.generate(follow, store=False)
    assert again.report.tokens["exact"] >= first.usage.prompt_tokens - 1
    assert again.tokens == cold.tokens


async def test_a_turn_broken_off_leaves_nothing(open_llm: OpenLLM) -> None:
    llm = await open_llm(retention="constant", retention_share=0.5)
    async with aclosing(llm.stream([user(STORY)], max_new_tokens=40)) as pieces:
        count = 0
        async for _ in pieces:
            count += 1
            if count == 3:
                break
    await llm.flush()
    assert all(tier.used_bytes == 0 for tier in llm.pipeline.memory.tiers.tiers)
    store = next(t.store for t in llm.pipeline.memory.tiers.tiers if isinstance(t.store, DiskStore))
    found = await audit(llm.pipeline.memory.registry, store)
    assert (found.rows, found.files, found.problems(alone=True)) == (0, 0, 0)


async def test_wrong_retention_is_refused(open_llm: OpenLLM) -> None:
    for wrong in ({"retention": "most"}, {"retention_share": 0.0}, {"retention_share": np.nan}):
        with pytest.raises(ConfigurationError, match="retention"):
            await open_llm(**wrong)
