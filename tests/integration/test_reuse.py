"""Whole turns on a tiny model: what is found again, and how it is reported."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from semshare_agents.llm import SemShareLLM
from semshare_agents.model.tokenise import tokenise
from semshare_agents.request.options import request_of
from semshare_agents.turn.state import Prefilled
from semshare_agents.values import Generation, Kind
from tests import tiny
from tests.conftest import OpenLLM
from tests.pipelines import broken
from tests.tiny import assistant, system, user

STORY = [tiny.words(30, seed) for seed in range(8)]


def checked(generation: Generation) -> Generation:
    """A generation whose report adds up."""
    report = generation.report
    assert sum(report.tokens.values()) == generation.usage.prompt_tokens
    assert set(report.tokens) == {"computed", "exact", "moved", "semantic"}
    reused = sum(n for kind, n in report.tokens.items() if kind != "computed")
    assert sum(report.donors.values()) == reused
    assert (report.reuse_class == "cold") == (reused == 0)
    assert 0 < report.rows_share <= 1
    assert 0 <= report.exact_tokens <= generation.usage.prompt_tokens
    assert generation.usage.cached_tokens == report.tokens["exact"]
    if report.reuse_class == "cold":
        assert report.reason
        assert report.exact_tokens == generation.usage.prompt_tokens
    return generation


async def ask(llm: SemShareLLM, messages: list[dict[str, str]], **options: Any) -> Generation:
    generation = checked(await llm.generate(messages, **options))
    await llm.flush()
    return generation


async def cold_answer(llm: SemShareLLM, messages: list[dict[str, str]], **options: Any) -> Generation:
    return await ask(llm, messages, reuse="off", store=False, **options)


async def test_the_next_turn_is_exact(open_llm: OpenLLM) -> None:
    llm = await open_llm()
    first = [system("be brief"), user(STORY[0])]
    one = await ask(llm, first)
    assert one.report.reuse_class == "cold"
    follow = [*first, assistant(one.text), user(STORY[1])]
    expected = await cold_answer(llm, follow)
    two = await ask(llm, follow)
    assert two.report.reuse_class == "exact"
    assert two.report.tokens["moved"] == 0
    # All but the last generated token, whose row nobody needed.
    assert two.report.tokens["exact"] >= one.usage.prompt_tokens + len(one.tokens) - 1
    assert two.report.donors == {one.report.turn_id: two.report.tokens["exact"]}
    assert two.tokens == expected.tokens


async def test_a_changed_system_prompt_leaves_moved_text(open_llm: OpenLLM) -> None:
    llm = await open_llm()
    body = user(" ".join(STORY[:3]))
    await ask(llm, [system("be brief"), body])
    moved = await ask(llm, [system("answer at length, with care"), body])
    assert moved.report.reuse_class == "moved"
    assert moved.report.tokens["moved"] > 0.8 * len(body["content"])
    assert moved.report.exact_tokens < moved.usage.prompt_tokens
    assert moved.report.rows_share < 0.3


async def test_a_trimmed_history_leaves_moved_text(open_llm: OpenLLM) -> None:
    llm = await open_llm()
    history = [system("be brief"), user(STORY[0]), assistant(STORY[1]), user(STORY[2]), assistant(STORY[3])]
    await ask(llm, [*history, user("and then")])
    trimmed = await ask(llm, [history[0], *history[3:], user("and then what")])
    assert trimmed.report.reuse_class == "moved"
    assert trimmed.report.tokens["moved"] > 0.8 * len(STORY[2] + STORY[3])


async def test_swapped_halves_are_both_moved(open_llm: OpenLLM) -> None:
    llm = await open_llm()
    await ask(llm, [user(f"{STORY[0]}\n{STORY[1]}")])
    swapped = await ask(llm, [user(f"{STORY[1]}\n{STORY[0]}")])
    assert swapped.report.reuse_class == "moved"
    assert swapped.report.tokens["moved"] > 0.75 * len(STORY[0] + STORY[1])


async def test_two_donors_serve_one_prompt(open_llm: OpenLLM) -> None:
    llm = await open_llm()
    donors = [await ask(llm, [user(STORY[i])]) for i in (4, 5)]
    both = await ask(llm, [user(f"compare this: {STORY[5]} and that: {STORY[4]}")])
    assert set(both.report.donors) == {d.report.turn_id for d in donors}
    assert both.report.tokens["moved"] > 0.75 * len(STORY[4] + STORY[5])


async def test_unrelated_prompts_stay_cold(open_llm: OpenLLM) -> None:
    llm = await open_llm()
    await ask(llm, [user(STORY[0])])
    other = await ask(llm, [user(STORY[6])], reuse="moved")
    assert other.report.tokens["moved"] == 0


@pytest.mark.parametrize(
    ("word", "moved", "exact"), [("off", False, False), ("exact", False, True), ("moved", True, True)]
)
async def test_each_reuse_word_allows_what_it_says(open_llm: OpenLLM, word: str, moved: bool, exact: bool) -> None:
    llm = await open_llm()
    first = [system("be brief"), user(STORY[0])]
    await ask(llm, first)
    changed = await ask(llm, [system("be long"), user(STORY[0])], reuse=word, store=False)
    assert (changed.report.tokens["moved"] > 0) == moved
    again = await ask(llm, first, reuse=word, store=False)
    assert (again.report.tokens["exact"] > 0) == exact
    if word == "off":
        assert again.report.reason == "reuse is off"


async def test_cold_where_the_cost_model_says_so(open_llm: OpenLLM) -> None:
    llm = await open_llm(speeds=tiny.COLD_WINS)
    messages = [user(STORY[0])]
    one = await ask(llm, messages)
    two = await ask(llm, messages)
    assert two.report.reuse_class == "cold"
    assert "a cold prefill" in two.report.reason
    assert two.tokens == one.tokens


async def test_the_measured_cost_model_gives_right_answers_too(open_llm: OpenLLM) -> None:
    llm = await open_llm(speeds=None)
    messages = [user(" ".join(STORY))]
    expected = await cold_answer(llm, messages)
    for _ in range(3):
        assert (await ask(llm, messages)).tokens == expected.tokens


async def prefilled(llm: SemShareLLM, messages: list[dict[str, str]], **options: Any) -> Prefilled:
    return await llm.pipeline.prefill(request_of(llm.settings, messages, options))


async def test_reused_kv_equals_what_its_kind_promises(open_llm: OpenLLM) -> None:
    llm = await open_llm()
    rows = llm.pipeline.model.support.rows
    assert rows is not None
    await ask(llm, [system("be brief"), user(" ".join(STORY[:3]))])
    messages = [system("be long winded"), user(" ".join(STORY[:3]))]
    warm = await prefilled(llm, messages)
    cold = await prefilled(llm, messages, reuse="off")
    count = len(warm.prompt)
    found, true = warm.run.buffer[:, :, :, :count], cold.run.buffer[:, :, :, :count]  # type: ignore[attr-defined]
    head = warm.report.exact_tokens
    assert np.abs((found - true)[:, :, :, :head].numpy()).max() < 1e-4
    # The first layer sees tokens and positions alone: there moved keys and values are the true ones.
    moved = warm.alignment.kind == Kind.MOVED
    assert moved.sum() > 100
    assert np.abs((found - true)[0].numpy()).max() < 1e-3
    warm.run.close()
    cold.run.close()


async def test_moved_turns_never_serve_as_exact(open_llm: OpenLLM) -> None:
    llm = await open_llm()
    body = user(" ".join(STORY[:3]))
    await ask(llm, [system("be brief"), body])
    changed = [system("answer at length, with care"), body]
    moved = await ask(llm, changed)
    frontier = moved.report.exact_tokens
    assert moved.report.reuse_class == "moved"
    for messages in (changed, [*changed, assistant(moved.text), user("go on")]):
        later = await ask(llm, messages, reuse="exact", store=False)
        assert later.report.tokens["exact"] <= frontier
        looser = await ask(llm, messages, reuse="moved", store=False)
        assert looser.report.tokens["exact"] <= frontier
        assert looser.report.exact_tokens <= frontier + llm.settings.head_tokens
        assert looser.report.reuse_class == "moved"


async def test_a_cold_run_after_a_moved_one_becomes_exact(open_llm: OpenLLM) -> None:
    llm = await open_llm()
    body = user(" ".join(STORY[:3]))
    await ask(llm, [system("be brief"), body])
    changed = [system("answer at length, with care"), body]
    await ask(llm, changed)
    cold = await ask(llm, changed, reuse="off")
    exact = await ask(llm, changed, reuse="exact")
    assert exact.report.tokens["exact"] >= cold.usage.prompt_tokens - llm.settings.tail_tokens
    assert exact.tokens == cold.tokens


@pytest.mark.parametrize("begins", ["cold", "moved"])
async def test_a_conversation_costs_its_tokens_once(open_llm: OpenLLM, begins: str) -> None:
    llm = await open_llm()
    rows = llm.pipeline.model.support.rows
    assert rows is not None
    before = 0
    if begins == "moved":
        await ask(llm, [system("be brief"), user(" ".join(STORY[:2]))])
        before = (await llm.pipeline.memory.registry.statistics())["block_bytes"]
    session = llm.session("long", system="be thorough")
    total = 0
    for turn in range(20):
        text = " ".join(STORY[:2]) if turn == 0 else tiny.words(12, 100 + turn)
        generation = checked(await session.send(text))
        await llm.flush()
        if turn == 0:
            assert generation.report.reuse_class == begins
        else:
            assert generation.report.tokens["computed"] < 120
            assert generation.report.misses == 0
        total = generation.usage.total_tokens
    await llm.flush()
    stored = (await llm.pipeline.memory.registry.statistics())["block_bytes"] - before
    assert stored <= 1.2 * total * rows.token_bytes
    assert stored >= 0.6 * total * rows.token_bytes
    on_disk = llm.pipeline.memory.tiers.durable
    assert on_disk is not None
    assert {key for key, _ in on_disk.store.entries()} == {
        i.key for i, _ in await llm.pipeline.memory.registry.blocks()
    }


async def test_tenants_never_share(open_llm: OpenLLM) -> None:
    llm = await open_llm(similarity_threshold=0.0)
    text = " ".join(STORY)
    own = await ask(llm, [system("be brief"), user(text)], tenant="acme")
    for messages in ([system("be brief"), user(text)], [system("be long"), user(text)], [user(text[7:])]):
        for word in ("exact", "moved", "semantic"):
            foreign = await ask(llm, messages, tenant="rival", reuse=word, store=False)
            assert foreign.report.reuse_class == "cold"
            assert foreign.report.donors == {}
    assert (await ask(llm, [system("be brief"), user(text)], tenant="acme")).report.donors.keys() == {
        own.report.turn_id
    }


async def test_sessions_of_one_tenant_share_and_keep_their_own_history(open_llm: OpenLLM) -> None:
    llm = await open_llm()
    alice, bob = llm.session("alice"), llm.session("bob")
    await alice.send(STORY[0])
    shared = await bob.send(STORY[0])
    assert shared.report.reuse_class == "exact"
    assert [m["role"] for m in await alice.messages()] == ["user", "assistant"]
    elsewhere = llm.session("alice", tenant="rival")
    assert await elsewhere.messages() == []


async def test_another_model_of_the_same_shapes_never_hits(open_llm: OpenLLM) -> None:
    messages = [user(" ".join(STORY[:3]))]
    first = await open_llm()
    await ask(first, messages)
    sibling = tiny.loaded("llama", seed=8)
    assert sibling.fingerprint != first.pipeline.model.fingerprint
    second = await open_llm(sibling)
    for word in ("exact", "moved", "semantic"):
        answer = await ask(second, messages, reuse=word, store=False)
        assert answer.report.reuse_class == "cold"


def reworded_text() -> tuple[str, str]:
    """A text, and one so like it that only single characters differ, too often for any block to be equal."""
    text = tiny.words(120, 50)
    return text, "".join("q" if at % 11 == 5 else letter for at, letter in enumerate(text))


async def test_semantic_reuse_is_asked_for_and_reported(open_llm: OpenLLM) -> None:
    llm = await open_llm(similarity_threshold=0.3)
    text, reworded = reworded_text()
    donor = await ask(llm, [user(text)])
    plain = await ask(llm, [user(reworded)], reuse="moved", store=False)
    assert plain.report.tokens["semantic"] == 0
    loose = await ask(llm, [user(reworded)], reuse="semantic")
    assert loose.report.reuse_class == "semantic"
    assert loose.report.similarity > 0.3
    assert loose.report.tokens["semantic"] > 0.5 * len(text)
    assert set(loose.report.donors) == {donor.report.turn_id}
    again = await ask(llm, [user(reworded)], reuse="exact", store=False)
    assert again.report.tokens["exact"] <= loose.report.exact_tokens


async def test_the_papers_strategy_runs_layer_by_layer(open_llm: OpenLLM) -> None:
    llm = await open_llm(similarity_threshold=0.3, strategy="deviation", semantic_share=0.2)
    text, reworded = reworded_text()
    await ask(llm, [user(text)])
    loose = await ask(llm, [user(reworded)], reuse="semantic")
    assert loose.report.reuse_class == "semantic"
    assert 0.1 < loose.report.rows_share < 1.0


async def test_the_papers_strategy_with_all_rows_answers_as_a_cold_run(open_llm: OpenLLM) -> None:
    llm = await open_llm(similarity_threshold=0.3, strategy="deviation", semantic_share=1.0)
    text, reworded = reworded_text()
    await ask(llm, [user(text)])
    warm = await prefilled(llm, [user(reworded)], reuse="semantic")
    cold = await prefilled(llm, [user(reworded)], reuse="off")
    assert (warm.alignment.kind == Kind.SEMANTIC).sum() > 300
    assert set(warm.plan.layer_shares) == {1.0}
    assert warm.logits.sub(cold.logits).abs().max() < 1e-3
    warm.run.close()
    cold.run.close()


@pytest.mark.parametrize("ablation", ["no-rotation", "no-recompute", "random-map", "zero-kv"])
async def test_ablations_do_damage_and_nothing_else_breaks(open_llm: OpenLLM, ablation: str) -> None:
    llm = await open_llm()
    body = user(" ".join(STORY[:3]))
    await ask(llm, [system("be brief"), body])
    changed = [system("answer at length"), body]
    plain = await prefilled(llm, changed)
    with broken(llm, {ablation}):
        damaged = await prefilled(llm, changed)
    gap = (plain.logits - damaged.logits).abs().max() / plain.logits.abs().max()
    assert gap > 1e-4
    plain.run.close()
    damaged.run.close()


async def test_what_is_not_stored_is_not_found(open_llm: OpenLLM) -> None:
    llm = await open_llm()
    messages = [user(STORY[0])]
    one = await ask(llm, messages, store=False)
    assert one.report.turn_id is None
    assert (await ask(llm, messages)).report.reuse_class == "cold"


async def test_prompts_are_what_the_template_says(open_llm: OpenLLM) -> None:
    llm = await open_llm()
    messages = [system("a"), user("bc")]
    prompt = tokenise(llm.pipeline.model.tokenizer, messages)
    text = llm.pipeline.model.tokenizer.decode(prompt)
    assert text == "<|im_start|>system\na<|im_end|>\n<|im_start|>user\nbc<|im_end|>\n<|im_start|>assistant\n"
    assert (await ask(llm, messages)).usage.prompt_tokens == len(prompt)


@pytest.mark.parametrize("codec", ["int8", "k5v4"])
async def test_a_packed_memory_serves_turns_and_never_another_codecs(open_llm: OpenLLM, codec: str) -> None:
    first = [system("be brief"), user(" ".join(STORY[:3]))]
    packed = await open_llm(kv_codec=codec, disk_bytes=0)
    raw = await open_llm()
    for llm in (packed, raw):
        one = await ask(llm, first)
        assert one.report.reuse_class == "cold"
        follow = [*first, assistant(one.text), user(STORY[4])]
        assert (await ask(llm, follow)).report.reuse_class == "exact"
        assert (await ask(llm, [system("be long winded"), *first[1:]])).report.reuse_class == "moved"
    assert packed.pipeline.memory.tiers.tiers[0].used_bytes < 0.4 * raw.pipeline.memory.tiers.tiers[0].used_bytes
