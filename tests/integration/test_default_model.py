"""The default model on real text: these fail, never skip, where it cannot be had."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import torch

from semshare_agents.bench.cold import answer_cold
from semshare_agents.bench.fidelity import agreement, forced_logits, kl_mean
from semshare_agents.kv.layout import KVLayout
from semshare_agents.llm import SemShareLLM
from semshare_agents.model.loading import LoadedModel
from semshare_agents.request.options import request_of
from tests.oracle.test_support import stock_answer
from tests.pipelines import broken
from tests.tiny import assistant, system, user

NOTES = """The lighthouse on Skerrin Point was built in 1874 by the engineer Honora Whitlock. It stands thirty-one \
metres tall, and its lamp could once be seen from twenty miles away. The first keeper, Tobias Fenn, lived there with \
his wife Agnes and four goats for nineteen years. In the winter of 1888 a storm tore the roof from the boat house and \
carried it across the bay to the village of Carrow. The villagers used the timber to repair their chapel. Since then \
the keepers have sent a basket of smoked herring to Carrow every first of March. The lamp was changed from oil to \
electric light in 1931, and the last keeper, Ruth Amberley, left in 1986 when the station became automatic. Today the \
tower belongs to a trust that opens it to visitors on Saturdays from May to September. The climb has one hundred and \
sixty-two steps. A small museum at the foot shows the old lamp, the goats' bells and the letters of Agnes Fenn, who \
wrote to her sister in Leith every week and complained mostly about the wind."""
MORE = """The railway to the north was planned for ten years before the first rail was laid. Farmers along the route \
asked for bridges, the town of Ellerby asked for two stations, and the mill owner Jasper Crewe asked that the trains \
should never whistle at night. In the end the line had nineteen bridges, one station at Ellerby and a great many \
whistles. It carried slate, wool and summer visitors until the road was widened, and its last train ran in October \
1962 with a brass band on board. Walkers use the track bed now; an old signal box serves tea and plum cake, and the \
bridges are home to a colony of bats that is counted each June by the pupils of the village school."""
REWORDED = """Honora Whitlock, an engineer, built the lighthouse on Skerrin Point in 1874. The tower stands \
thirty-one metres high, and at one time its lamp was visible from twenty miles off. Tobias Fenn was the first keeper; \
he lived there for nineteen years with his wife Agnes and four goats. A storm in the winter of 1888 ripped the roof \
off the boat house and blew it over the bay to Carrow village. The people of the village mended their chapel with the \
timber. Ever since, every first of March, the keepers have sent Carrow a basket of smoked herring. In 1931 the lamp \
was changed from oil to electric light, and Ruth Amberley, the last keeper, went away in 1986 when the station was \
made automatic. The tower now belongs to a trust, which opens it to visitors on Saturdays between May and September. \
There are one hundred and sixty-two steps to climb. At the foot a small museum shows the old lamp, the bells of the \
goats and the letters of Agnes Fenn, who each week wrote to her sister in Leith and mostly complained about the wind."""
UNRELATED = " ".join(
    f"Step {i}: whisk {i + 2} eggs with {10 * i} grams of sugar, then fold in flour, salt and melted butter."
    for i in range(1, 16)
)
TOKENS = 24


@pytest.fixture
async def llm(
    default_model: LoadedModel, two_threads: None, reuse_wins: None, tmp_path: Path
) -> AsyncIterator[SemShareLLM]:
    small = {"memory_bytes": 400_000_000, "disk_bytes": 400_000_000, "max_new_tokens": TOKENS}
    async with SemShareLLM.open(loaded=default_model, home=tmp_path, min_gain=1.0, **small) as opened:
        yield opened


async def against_cold(llm: SemShareLLM, messages: list[dict[str, str]], **options: Any) -> tuple[Any, float, float]:
    """The report of a reusing run, its KL to the stock cold run along the cold answer, and their agreement."""
    request = request_of(llm.settings, messages, options)
    prefilled = await llm.pipeline.prefill(request)
    cold = answer_cold(llm.pipeline.model, prefilled.prompt, TOKENS)
    logits = forced_logits(prefilled.run, prefilled.logits, len(prefilled.prompt), cold.tokens)
    prefilled.run.close()
    return prefilled.report, kl_mean(cold.logits, logits), agreement(cold.logits, logits)


async def test_greedy_answers_equal_stock_generation(llm: SemShareLLM) -> None:
    first = [system("You answer in one sentence."), user(f"{NOTES}\n\nWho was the first keeper?")]
    cold = await llm.generate(first)
    assert cold.report.reuse_class == "cold"
    assert list(cold.tokens) == stock_answer(llm.pipeline.model, first, TOKENS)
    follow = [*first, assistant(cold.text), user("And the last one?")]
    warm = await llm.generate(follow)
    assert warm.report.reuse_class == "exact"
    assert warm.report.tokens["exact"] > 0.9 * cold.usage.prompt_tokens
    assert list(warm.tokens) == stock_answer(llm.pipeline.model, follow, TOKENS)


async def test_the_next_turn_is_as_good_as_cold(llm: SemShareLLM) -> None:
    first = [user(f"{NOTES}\n\n{MORE}\n\nSum this up.")]
    one = await llm.generate(first)
    report, kl, same = await against_cold(llm, [*first, assistant(one.text), user("Shorter, please.")])
    assert report.reuse_class == "exact"
    assert kl < 1e-6
    assert same == 1.0
    assert report.rows_share < 0.15


async def test_moved_text_drifts_little_and_only_because_it_is_rotated(llm: SemShareLLM) -> None:
    body = user(f"{NOTES}\n\n{MORE}\n\nWho built the lighthouse, and when?")
    await llm.generate([system(f"You answer briefly. In the kitchen, meanwhile: {UNRELATED}"), body])
    changed = [system("You are a helpful assistant."), body]
    report, kl, same = await against_cold(llm, changed)
    assert report.reuse_class == "moved"
    assert report.tokens["moved"] > 0.7 * len(llm.pipeline.model.tokenizer.encode(NOTES + MORE))
    assert kl < 0.05
    assert same > 0.9
    with broken(llm, {"no-rotation"}):
        _, unrotated, _ = await against_cold(llm, changed)
    assert unrotated > max(10 * kl, 0.3)


async def test_a_paraphrase_is_semantic_only_where_that_is_asked_for(llm: SemShareLLM) -> None:
    await llm.generate([user(f"{NOTES}\n\nWho was the last keeper?")])
    asked = [user(f"{REWORDED}\n\nWhat does the museum show?")]
    report, _, _ = await against_cold(llm, asked, reuse="semantic")
    assert report.reuse_class == "semantic"
    assert report.similarity > 0.5
    assert report.tokens["semantic"] > 50
    plain, exact_kl, _ = await against_cold(llm, asked, reuse="exact")
    assert plain.tokens["semantic"] == 0
    assert exact_kl < 1e-6


@pytest.mark.parametrize("word", ["moved", "semantic"])
async def test_unrelated_text_stays_cold(llm: SemShareLLM, word: str) -> None:
    await llm.generate([user(f"{NOTES}\n\nWho was the last keeper?")])
    answer = await llm.generate([user(UNRELATED)], reuse=word, max_new_tokens=2)
    assert answer.report.tokens["moved"] == answer.report.tokens["semantic"] == 0
    if answer.report.reuse_class != "cold":
        # The opening that the template gives every prompt may be shared, and is exact.
        assert answer.report.reuse_class == "exact"
        assert answer.report.tokens["exact"] < 40


@pytest.mark.parametrize("body", [NOTES, REWORDED], ids=["word for word", "reworded"])
async def test_a_changed_fact_is_answered_fresh(llm: SemShareLLM, body: str) -> None:
    ask = "In which year was the lamp changed to electric light? Answer in one sentence."
    await llm.generate([user(f"{NOTES}\n\n{MORE}\n\n{ask}")])
    messages = [user(f"{body.replace('1931', '1947')}\n\n{MORE}\n\n{ask}")]
    cold = await llm.generate(messages, reuse="off", store=False)
    assert "1947" in cold.text
    for word, fidelity in (("moved", "fast"), ("semantic", "balanced"), ("semantic", "strict")):
        warm = await llm.generate(messages, reuse=word, fidelity=fidelity, store=False)
        assert word == "semantic" or warm.report.tokens["moved"] > 50
        assert "1947" in warm.text, (word, fidelity)
        assert "1931" not in warm.text, (word, fidelity)


@pytest.mark.alone
async def test_kv_of_the_default_model_survives_a_restart(
    default_model: LoadedModel, two_threads: None, reuse_wins: None, tmp_path: Path
) -> None:
    messages = [user(f"{NOTES}\n\nWho was the last keeper?")]
    settings: dict[str, Any] = {"home": tmp_path, "max_new_tokens": 8, "min_gain": 1.0}
    async with SemShareLLM.open(loaded=default_model, **settings) as first:
        said = await first.generate(messages)
    async with SemShareLLM.open(loaded=default_model, **settings) as second:
        again = await second.generate(messages)
        assert again.report.reuse_class == "exact"
        assert again.report.misses == 0
        assert again.tokens == said.tokens
        assert again.report.ttft_seconds < said.report.ttft_seconds


def test_the_default_model_is_what_the_documents_say(default_model: LoadedModel) -> None:
    assert default_model.context_tokens == 8192
    support = default_model.support
    assert support.rows is not None
    assert support.mover is not None
    assert support.rows.layout == KVLayout(30, 3, 64, torch.float32)
    assert default_model.model.dtype == torch.float32
    assert support.rows.token_bytes == 46_080
