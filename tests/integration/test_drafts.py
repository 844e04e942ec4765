"""Drafts on a tiny model: answers, what is stored and what is reported are those of a model that drafts nothing."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from semshare_agents.drafts import Match
from semshare_agents.drafts.price import StepPrice
from semshare_agents.errors import ConfigurationError, InvalidSchemaError
from semshare_agents.llm import SemShareLLM
from semshare_agents.model.generate import Sampler
from semshare_agents.model.run import RowRun
from semshare_agents.turn import compute, drafting, pipeline
from semshare_agents.turn.drafting import Drafting
from semshare_agents.values import Generation, Piece
from tests import tiny
from tests.conftest import OpenLLM
from tests.integration.test_repair import CHANGED, donor, moved_turn, stored_and_true
from tests.tiny import assistant, system, user

ROOM = 40
Messages = Sequence[dict[str, str]]


class EveryRowIsFree(StepPrice):
    """Steps cost alike, whatever a busy machine makes of them: what is drafted depends on texts alone."""

    def __init__(self) -> None:
        super().__init__(None)

    def saw(self, rows: int, tokens: int, seconds: float) -> None:
        """Learn nothing."""


def eager(llm: SemShareLLM) -> SemShareLLM:
    assert llm.pipeline.decoding.drafts is not None
    llm.pipeline.decoding.drafts.price = EveryRowIsFree()
    return llm


@pytest.fixture
def both(open_llm: OpenLLM, tmp_path: Any) -> Any:
    """Opens an adapter with drafts and one without, each with a memory of its own."""

    async def opened(**settings: Any) -> tuple[SemShareLLM, SemShareLLM]:
        drafting = eager(await open_llm(home=tmp_path / "drafts", **settings))
        return drafting, await open_llm(home=tmp_path / "none", drafts=False, **settings)

    return opened


class Guesses:
    """Drafts of an answer that is known before: right ones, and in between wrong ones, in lengths of any kind."""

    def __init__(self, patch: pytest.MonkeyPatch, answer: Sequence[int], wrong: float, seed: int = 0):
        self.answer, self.wrong, self.rng = list(answer), wrong, np.random.default_rng(seed)
        self.asked: list[int] = []
        patch.setattr(Drafting, "_looked_up", lambda drafts: self.guess(len(drafts._answer.tokens)))
        patch.setattr(drafting, "draft_length", lambda _, most, *__: int(self.rng.integers(0, most + 1)))

    def guess(self, drawn: int) -> Match:
        self.asked.append(drawn)
        tokens = np.asarray([*self.answer[drawn : drawn + 31], 40, 41], np.int32)
        at = self.rng.random(len(tokens)) < self.wrong
        tokens[at] = self.rng.integers(4, tiny.VOCABULARY, int(at.sum()))
        return Match(5, tokens)


def chats(count: int) -> list[Messages]:
    return [[system("be brief"), user(tiny.words(12 + 3 * seed, seed))] for seed in range(count)]


async def pieces(llm: SemShareLLM, messages: Messages, **options: Any) -> tuple[list[str], Generation]:
    told: list[Piece] = []
    async with aclosing(llm.stream(messages, **options)) as stream:
        told += [piece async for piece in stream]
    assert told[-1].generation is not None
    return [piece.text for piece in told], told[-1].generation


OPTIONS: list[dict[str, Any]] = [
    {},
    {"max_new_tokens": 1},
    {"max_new_tokens": 2},
    {"repetition_penalty": 1.3},
    {"frequency_penalty": 0.4},
    {"temperature": 0.8, "seed": 3},
    {"temperature": 1.2, "top_p": 0.9, "top_k": 40, "seed": 4},
    {"raw": True},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("wrong", [0.0, 0.15, 1.0])
async def test_answers_are_the_same_whatever_is_drafted(
    both: Any, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], wrong: float
) -> None:
    drafts, none = await both(max_new_tokens=ROOM)
    for messages in chats(3):
        if options.get("raw"):
            messages = [messages[1]]
        expected = await pieces(none, messages, **options)
        with monkeypatch.context() as patch:
            Guesses(patch, expected[1].tokens, wrong)
            found = await pieces(drafts, messages, **options)
        assert found[0] == expected[0], "piece by piece"
        assert found[1].tokens == expected[1].tokens
        assert found[1].finish_reason == expected[1].finish_reason
        assert found[1].report.exact_tokens == expected[1].report.exact_tokens
        report = found[1].report
        assert 0 <= report.accepted_tokens <= report.drafted_tokens
        if len(expected[1].tokens) > 4 and wrong < 1:
            assert report.accepted_tokens > 0


@pytest.mark.parametrize("family", ["qwen3", "gemma3", "phi3-partial", "smollm3-nope"])
async def test_answers_of_other_families_are_the_same(both: Any, monkeypatch: pytest.MonkeyPatch, family: str) -> None:
    drafts, none = await both(family=family, max_new_tokens=ROOM)
    for messages in chats(2):
        expected = await none.generate(messages)
        with monkeypatch.context() as patch:
            Guesses(patch, expected.tokens, 0.1)
            found = await drafts.generate(messages)
        assert found.tokens == expected.tokens
        assert found.report.accepted_tokens > 0


@pytest.mark.parametrize("at", [3, 7, 11])
async def test_stop_strings_and_ends_cut_as_they_do_without(
    both: Any, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    drafts, none = await both(max_new_tokens=ROOM)
    for messages in chats(3):
        whole = await none.generate(messages, store=False)
        stop = {"stop": (whole.text[at : at + 2],)}
        expected = await pieces(none, messages, **stop)
        with monkeypatch.context() as patch:
            Guesses(patch, whole.tokens, 0.05)
            found = await pieces(drafts, messages, **stop)
        assert found[0] == expected[0]
        assert (found[1].text, found[1].tokens) == (expected[1].text, expected[1].tokens)
        assert found[1].finish_reason == "stop"
        mine, theirs = await donor(drafts, found[1].report.turn_id), await donor(none, expected[1].report.turn_id)
        assert np.array_equal(mine.tokens, theirs.tokens), "no drafted row is stored"
        assert mine.exact_tokens == theirs.exact_tokens == len(mine.tokens)


async def test_an_end_token_ends_the_draft_too(both: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    drafts, none = await both(max_new_tokens=ROOM)
    messages = chats(1)[0]
    whole = await none.generate(messages, store=False)
    end = whole.tokens[9]
    for llm in (drafts, none):
        pipelines_end(llm, end)
    expected = await none.generate(messages)
    assert expected.finish_reason == "stop"
    with monkeypatch.context() as patch:
        Guesses(patch, whole.tokens, 0.0)
        found = await drafts.generate(messages)
    assert found.tokens == expected.tokens
    assert found.text == expected.text


def pipelines_end(llm: SemShareLLM, token: int) -> None:
    """Let a token of the tiny model's alphabet end answers."""
    from tests.pipelines import use

    model = replace(llm.pipeline.model, end_tokens=frozenset({token}))
    use(llm, replace(llm.pipeline, model=model))


async def test_held_answers_keep_to_their_schema(both: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    schema = {
        "type": "object",
        "properties": {"name": {"enum": ["left", "right"]}, "list": {"type": "array", "items": {"type": "boolean"}}},
        "required": ["name", "list"],
        "additionalProperties": False,
    }
    drafts, none = await both(max_new_tokens=60)
    for messages in chats(3):
        expected = await none.generate(messages, response_schema=schema)
        with monkeypatch.context() as patch:
            Guesses(patch, expected.tokens, 0.2)
            found = await drafts.generate(messages, response_schema=schema)
        assert found.tokens == expected.tokens
        assert found.report.accepted_tokens > 0


async def test_an_answer_that_fails_within_a_draft_hands_out_what_came_before(
    both: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    drafts, none = await both(max_new_tokens=ROOM)
    messages = chats(1)[0]
    whole = await none.generate(messages, store=False)
    Guesses(monkeypatch, whole.tokens, 0.0)
    drawn, allowed = 0, Sampler.next

    def failing(sampler: Sampler, logits: Any) -> int:
        nonlocal drawn
        drawn += 1
        if drawn > 9:
            raise InvalidSchemaError("it cannot go on")
        return allowed(sampler, logits)

    monkeypatch.setattr(Sampler, "next", failing)
    for llm in (none, drafts):
        drawn = 0
        told: list[str] = []
        with pytest.raises(InvalidSchemaError):
            await heard(llm, messages, told)
        assert "".join(told) == whole.text[:9]


async def heard(llm: SemShareLLM, messages: Messages, told: list[str]) -> None:
    async with aclosing(llm.stream(messages)) as stream:
        async for piece in stream:
            told += [piece.text]


async def test_what_is_stored_is_a_cold_run(both: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    drafts, none = await both(max_new_tokens=ROOM)
    messages = chats(1)[0]
    expected = await none.generate(messages)
    Guesses(monkeypatch, expected.tokens, 0.2)
    found = await drafts.generate(messages)
    who = await donor(drafts, found.report.turn_id)
    assert len(who.tokens) == who.exact_tokens == found.usage.prompt_tokens + len(found.tokens) - 1
    kept, true = await stored_and_true(drafts, found.report.turn_id)
    assert np.abs(kept - true).max() < 1e-4
    monkeypatch.undo()
    follow = [*messages, assistant(found.text), user("go on")]
    again = await drafts.generate(follow, reuse="exact")
    assert again.report.tokens["exact"] >= len(who.tokens) - drafts.settings.block_tokens
    assert again.tokens == (await none.generate(follow, reuse="off")).tokens


@pytest.mark.parametrize("repair_rows", [0, 3, 10, 200])
async def test_the_frontier_is_where_it_is_and_nothing_behind_it_is_exact(
    open_llm: OpenLLM, monkeypatch: pytest.MonkeyPatch, repair_rows: int
) -> None:
    llm = eager(await open_llm(repair_rows=repair_rows))
    cold = await llm.generate(CHANGED, reuse="off", store=False, max_new_tokens=ROOM)
    Guesses(monkeypatch, cold.tokens, 0.3)
    moved = await moved_turn(llm, max_new_tokens=ROOM)
    who = await donor(llm, moved.report.turn_id)
    steps = len(moved.tokens) - 1
    assert len(who.tokens) == moved.usage.prompt_tokens + steps
    # Each token is drawn from rows as exact as without drafts, or more so.
    least = moved.report.exact_tokens + repair_rows * steps
    assert min(least, len(who.tokens)) <= who.exact_tokens <= len(who.tokens)
    if not repair_rows:
        assert who.exact_tokens == moved.report.exact_tokens
    kept, true = await stored_and_true(llm, moved.report.turn_id)
    assert np.abs(kept - true)[:, :, :, : who.exact_tokens].max() < 1e-4
    monkeypatch.undo()
    follow = [*CHANGED, assistant(moved.text), user("go on")]
    later = await llm.generate(follow, reuse="exact", store=False)
    assert later.report.tokens["exact"] <= who.exact_tokens
    assert later.tokens == (await llm.generate(follow, reuse="off", store=False)).tokens


@pytest.mark.parametrize("wrong", [0.0, 0.2])
@pytest.mark.parametrize("rate", [0.0, 0.5])
async def test_near_ties_are_a_cold_run_s_tokens(
    open_llm: OpenLLM, monkeypatch: pytest.MonkeyPatch, wrong: float, rate: float
) -> None:
    """Every lead counts as narrow: rows that were drafted before the KV became exact are not drawn from."""
    calm = {"repair_idle": False, "repair_rows": None, "repair_slowdown": rate, "fidelity": "auto"}
    llm = eager(await open_llm(**calm))
    monkeypatch.setattr(compute, "FIRST_SPREADS", 0.0)
    monkeypatch.setattr(pipeline, "LATER_SPREADS", 1e9)
    seen = 0
    for seed in range(6):
        body = user(" ".join(tiny.words(30, 10 * seed + part) for part in range(3)))
        await llm.generate([system("be brief"), body], max_new_tokens=1)
        messages = [system(f"answer at length, {tiny.words(6, seed)}"), body]
        cold = await llm.generate(messages, reuse="off", store=False, max_new_tokens=20)
        first = await llm.generate(messages, store=False, max_new_tokens=1)
        if first.tokens[0] != cold.tokens[0]:
            continue  # drift decided it; that is the first token's affair
        with monkeypatch.context() as patch:
            Guesses(patch, cold.tokens, wrong, seed)
            found = await llm.generate(messages, store=False, max_new_tokens=20)
        assert found.report.reuse_class == "moved"
        assert found.tokens == cold.tokens
        seen += 1
    assert seen > 2


async def test_deferred_rows_come_before_drafts(open_llm: OpenLLM, monkeypatch: pytest.MonkeyPatch) -> None:
    llm = eager(await open_llm())
    carried: list[tuple[int, int]] = []
    made = RowRun.next

    def watched(run: RowRun, token: int, repair_rows: int = 0, drafts: Sequence[int] = (), most: int = 128) -> Any:
        carried.append((len(run.deferred), len(drafts)))
        return made(run, token, repair_rows, drafts, most)

    monkeypatch.setattr(RowRun, "next", watched)
    Guesses(monkeypatch, [50] * 60, 0.0)
    prefill = type(llm.pipeline).prefill

    async def deferring(self: Any, *args: Any) -> Any:
        prefilled = await prefill(self, *args)
        prefilled.run.deferred = np.arange(5, 200)
        return prefilled

    monkeypatch.setattr(type(llm.pipeline), "prefill", deferring)
    await llm.generate([user(tiny.words(60, 1))], max_new_tokens=12)
    assert [owed > 0 for owed, _ in carried[:3]] == [True, True, False]
    assert all(not drafts for owed, drafts in carried if owed)
    assert any(drafts for _, drafts in carried)


async def test_a_stream_that_is_closed_within_a_draft_leaves_nothing(
    both: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    drafts, none = await both(max_new_tokens=ROOM)
    messages = chats(1)[0]
    expected = await none.generate(messages)
    Guesses(monkeypatch, expected.tokens, 0.0)
    async with aclosing(drafts.stream(messages)) as stream:
        async for piece in stream:
            if piece.text:
                break
    found = await drafts.generate(messages)
    assert found.tokens == expected.tokens


async def test_two_answers_at_once_do_not_mix(both: Any) -> None:
    import asyncio

    drafts, none = await both(max_new_tokens=ROOM)
    expected = [(await none.generate(messages)).tokens for messages in chats(4)]
    found = await asyncio.gather(*(drafts.generate(messages) for messages in chats(4)))
    assert [each.tokens for each in found] == expected


# --- where drafts come from


async def test_an_earlier_answer_is_drafted_also_after_a_restart(open_llm: OpenLLM, tmp_path: Any) -> None:
    home = tmp_path / "kept"
    first = eager(await open_llm(home=home, max_new_tokens=ROOM))
    messages = chats(1)[0]
    told = await first.generate(messages)
    await first.settle()
    again = await first.generate(messages, store=False)
    assert again.tokens == told.tokens
    assert again.report.accepted_tokens >= len(told.tokens) - 8
    await first.aclose()
    second = eager(await open_llm(home=home, max_new_tokens=ROOM))
    await second.generate([user("x")], max_new_tokens=1)
    await second.settle()
    after = await second.generate(messages, store=False)
    assert after.tokens == told.tokens
    assert after.report.accepted_tokens >= len(told.tokens) - 8


def known(llm: SemShareLLM) -> dict[str, int]:
    assert llm.pipeline.decoding.drafts is not None
    return {key[0]: len(text) for key, text in llm.pipeline.decoding.drafts._texts.items()}


async def drafted_from_past(llm: SemShareLLM, monkeypatch: pytest.MonkeyPatch, messages: Messages, tenant: str) -> bool:
    """Whether past turns propose anything to a tenant."""
    from semshare_agents.drafts.past import PastText

    seen: list[Match | None] = []
    longest = PastText.longest

    def watched(text: PastText, context: Any, most: int) -> Match | None:
        seen.append(longest(text, context, most))
        return seen[-1]

    with monkeypatch.context() as patch:
        patch.setattr(PastText, "longest", watched)
        await llm.generate(messages, store=False, tenant=tenant)
    # Less is the template's, which every turn has.
    return any(match is not None and match.length > 20 for match in seen)


async def test_another_tenant_s_text_is_never_drafted(open_llm: OpenLLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a pool neither: its members share KV, not what they were told."""
    llm = eager(await open_llm(max_new_tokens=ROOM, pools={"docs": ["a", "b"]}))
    messages = chats(1)[0]
    await llm.generate(messages, tenant="a")
    for tenant in ("a", "b", "c"):
        await llm.generate([user("zq")], tenant=tenant, max_new_tokens=1)
    await llm.settle()
    assert await drafted_from_past(llm, monkeypatch, messages, "a")
    assert not await drafted_from_past(llm, monkeypatch, messages, "b")
    assert not await drafted_from_past(llm, monkeypatch, messages, "c")


@pytest.mark.parametrize("what", ["turn", "session", "tenant"])
async def test_what_is_forgotten_drops_out(open_llm: OpenLLM, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    llm = eager(await open_llm(max_new_tokens=ROOM))
    messages, other = chats(2)
    told = await llm.generate(messages, session="s", tenant="a")
    await llm.generate(other, tenant="a")
    await llm.settle()
    assert await drafted_from_past(llm, monkeypatch, messages, "a")
    which = {"turn": {"turn": told.report.turn_id}, "session": {"session": "s"}, "tenant": {}}[what]
    await llm.forget(tenant="a", **which)
    assert known(llm) == {}
    await llm.generate([user("zq")], tenant="a", max_new_tokens=1, store=False)
    await llm.settle()
    assert not await drafted_from_past(llm, monkeypatch, messages, "a")
    assert await drafted_from_past(llm, monkeypatch, other, "a") == (what != "tenant")


async def test_what_another_process_forgets_drops_out(
    open_llm: OpenLLM, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    one = eager(await open_llm(home=tmp_path / "shared", max_new_tokens=ROOM))
    two = await open_llm(home=tmp_path / "shared", max_new_tokens=ROOM)
    messages = chats(1)[0]
    told = await one.generate(messages, tenant="a")
    await one.settle()
    assert known(one)["a"] > 20
    await two.forget(tenant="a", turn=told.report.turn_id)
    await one.generate([user("zq")], tenant="b", max_new_tokens=1, store=False)
    assert "a" not in known(one)


async def test_what_another_process_stores_is_drafted(open_llm: OpenLLM, tmp_path: Any) -> None:
    one = eager(await open_llm(home=tmp_path / "shared", max_new_tokens=ROOM))
    two = await open_llm(home=tmp_path / "shared", max_new_tokens=ROOM)
    told = await two.generate(chats(1)[0])
    await one.generate([user("zq")], max_new_tokens=1, store=False)
    await one.settle()
    assert known(one)["default"] > len(told.tokens)


async def test_what_is_not_stored_is_not_drafted(open_llm: OpenLLM) -> None:
    llm = eager(await open_llm(max_new_tokens=ROOM))
    await llm.generate(chats(1)[0], store=False)
    await llm.settle()
    assert sum(known(llm).values()) == 0


# --- settings and reports


async def test_reports_count_drafts(open_llm: OpenLLM) -> None:
    llm = eager(await open_llm(max_new_tokens=ROOM))
    messages = chats(1)[0]
    await llm.generate(messages)
    await llm.settle()
    answer = await llm.generate(messages)
    told = answer.report.as_dict()
    assert told["drafted_tokens"] == answer.report.drafted_tokens >= told["accepted_tokens"] > 0
    row = await llm.pipeline.memory.registry.turn(answer.report.turn_id or 0)
    assert row is not None
    assert f'"accepted_tokens":{told["accepted_tokens"]}' in row[0].report


@pytest.mark.parametrize("settings", [{"drafts": False}, {"retention": "constant"}])
async def test_who_wants_none_gets_none(open_llm: OpenLLM, settings: dict[str, Any]) -> None:
    llm = await open_llm(max_new_tokens=ROOM, **settings)
    assert llm.pipeline.decoding.drafts is None
    for _ in range(2):
        report = (await llm.generate(chats(1)[0])).report
    assert (report.drafted_tokens, report.accepted_tokens) == (0, 0)


async def test_models_without_rows_draft_nothing(open_llm: OpenLLM) -> None:
    llm = eager(await open_llm("mamba", max_new_tokens=ROOM))
    for _ in range(2):
        report = (await llm.generate(chats(1)[0])).report
    assert report.drafted_tokens == 0


def test_the_setting_is_a_switch() -> None:
    with pytest.raises(ConfigurationError, match="drafts"):
        SemShareLLM.open(drafts="sometimes")
