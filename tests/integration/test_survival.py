"""Restarts, damage and bad input: a counted miss or a typed error, never a wrong answer."""

from __future__ import annotations

import copy
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from semshare_agents.errors import (
    ClosedError,
    ConfigurationError,
    ContextLengthError,
    InvalidMessagesError,
    ModelNotFoundError,
    RegistryUnavailableError,
    SchemaVersionError,
    StoreNotWritableError,
    TemplateError,
)
from semshare_agents.llm import SemShareLLM
from semshare_agents.model.loading import prepare
from semshare_agents.values import Generation
from tests import tiny
from tests.conftest import OpenLLM
from tests.tiny import assistant, system, user

BODY = " ".join(tiny.words(30, seed) for seed in range(3))
MESSAGES = [system("be brief"), user(BODY)]
CHANGED = [system("answer at length"), user(BODY)]


async def stored_then_reopened(open_llm: OpenLLM, **settings: Any) -> tuple[SemShareLLM, Generation]:
    """An adapter on a home that an earlier one filled; its RAM tier is empty."""
    first = await open_llm(**settings)
    answer = await first.generate(MESSAGES)
    await first.aclose()
    return await open_llm(**settings), answer


def files(llm: SemShareLLM) -> list[Path]:
    return sorted(llm.settings.kv_dir.glob("*/*.safetensors"))


async def test_kv_survives_a_restart(open_llm: OpenLLM) -> None:
    llm, answer = await stored_then_reopened(open_llm)
    again = await llm.generate(MESSAGES, store=False)
    assert again.report.reuse_class == "exact"
    assert again.report.misses == 0
    assert again.tokens == answer.tokens
    moved = await llm.generate(CHANGED, store=False)
    assert moved.report.reuse_class == "moved"
    assert moved.report.tokens["moved"] > 0.8 * len(BODY)


async def test_a_session_goes_on_after_a_restart(open_llm: OpenLLM) -> None:
    first = await open_llm()
    said = await first.session("alice").send(BODY)
    await first.aclose()
    second = await open_llm()
    session = second.session("alice")
    assert [m["content"] for m in await session.messages()] == [BODY, said.text]
    assert (await session.send("go on")).report.reuse_class == "exact"


async def test_without_disk_a_restart_forgets_kv_and_keeps_history(open_llm: OpenLLM) -> None:
    first = await open_llm(disk_bytes=0)
    await first.session("alice").send(BODY)
    await first.aclose()
    second = await open_llm(disk_bytes=0)
    assert len(await second.session("alice").messages()) == 2
    again = await second.generate([user(BODY)])
    assert again.report.reuse_class == "cold"
    assert again.report.misses == 0


async def test_without_memory_kv_comes_from_disk(open_llm: OpenLLM) -> None:
    llm = await open_llm(memory_bytes=0)
    one = await llm.generate(MESSAGES)
    await llm.flush()
    two = await llm.generate(MESSAGES)
    assert two.report.reuse_class == "exact"
    assert two.tokens == one.tokens


def remove(path: Path) -> None:
    path.unlink()


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def flip_payload(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-50] ^= 4
    path.write_bytes(content)


def flip_header(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[20] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [remove, truncate, empty, flip_payload, flip_header])
@pytest.mark.parametrize("which", ["one", "all"])
async def test_damaged_files_are_counted_misses_and_the_answer_is_right(
    open_llm: OpenLLM, damage: Any, which: str
) -> None:
    llm, answer = await stored_then_reopened(open_llm)
    stored = files(llm)
    assert len(stored) > 10
    blocks = len(stored)
    broken = stored if which == "all" else stored[blocks // 2 : blocks // 2 + 1]
    for path in broken:
        damage(path)
    found = await llm.generate(MESSAGES, store=False)
    assert found.tokens == answer.tokens
    assert 1 <= found.report.misses <= len(broken)
    assert sum(found.report.tokens.values()) == found.usage.prompt_tokens
    if which == "all":
        assert found.report.reuse_class == "cold"
    events = await llm.pipeline.memory.registry.statistics()
    assert events["tokens_by_event"]["miss"] > 0
    again = await llm.generate(MESSAGES, store=False)
    assert again.report.misses == 0
    assert again.tokens == answer.tokens


async def test_files_swapped_with_each_other_are_misses(open_llm: OpenLLM) -> None:
    llm, answer = await stored_then_reopened(open_llm)
    one, two = files(llm)[:2]
    contents = one.read_bytes(), two.read_bytes()
    one.write_bytes(contents[1])
    two.write_bytes(contents[0])
    found = await llm.generate(MESSAGES, store=False)
    assert found.report.misses == 2
    assert found.tokens == answer.tokens


async def test_a_lost_turn_is_stored_again(open_llm: OpenLLM) -> None:
    llm, _ = await stored_then_reopened(open_llm)
    for path in files(llm):
        path.unlink()
    await llm.generate(MESSAGES)
    await llm.flush()
    assert (await llm.generate(MESSAGES)).report.reuse_class == "exact"


async def test_files_that_no_row_names_do_no_harm(open_llm: OpenLLM) -> None:
    llm, answer = await stored_then_reopened(open_llm)
    await llm.aclose()
    home = llm.settings.home
    (home / "registry.db").unlink()
    for leftover in home.glob("registry.db-*"):
        leftover.unlink()
    fresh = await open_llm()
    found = await fresh.generate(MESSAGES)
    assert found.report.reuse_class == "cold"
    assert found.tokens == answer.tokens


async def test_a_lowered_budget_evicts_and_tells_the_registry(open_llm: OpenLLM) -> None:
    first = await open_llm()
    await first.generate(MESSAGES)
    await first.aclose()
    size = sum(p.stat().st_size for p in files(first))
    second = await open_llm(disk_bytes=size // 2)
    assert sum(p.stat().st_size for p in files(second)) <= size // 2
    left = {info.key for info, _ in await second.pipeline.memory.registry.blocks()}
    assert left == {p.name.removesuffix(".safetensors") for p in files(second)}


async def test_budgets_too_small_for_a_turn_lose_kv_but_never_an_answer(open_llm: OpenLLM) -> None:
    llm = await open_llm(memory_bytes=100_000, disk_bytes=150_000)
    expected = [await llm.generate([user(tiny.words(40, s))], reuse="off", store=False) for s in range(4)]
    for _ in range(2):
        for seed in range(4):
            answer = await llm.generate([user(tiny.words(40, seed))])
            await llm.flush()
            assert answer.tokens == expected[seed].tokens
            assert all(tier.used_bytes <= tier.budget_bytes for tier in llm.pipeline.memory.tiers.tiers)
    known = {info.key for info, _ in await llm.pipeline.memory.registry.blocks()}
    assert all(llm.pipeline.memory.tiers.anywhere(key) for key in known)


async def test_a_database_of_another_schema_version_is_refused(open_llm: OpenLLM) -> None:
    llm = await open_llm()
    await llm.aclose()
    with sqlite3.connect(llm.settings.home / "registry.db") as db:
        db.execute("UPDATE semshare_version SET version_num = '0999'")
    db.close()
    with pytest.raises(SchemaVersionError, match="999"):
        await open_llm()


async def test_a_file_that_is_no_database_is_refused(open_llm: OpenLLM, tmp_path: Path) -> None:
    (tmp_path / "bad.db").write_bytes(b"this is no database" * 100)
    with pytest.raises(RegistryUnavailableError):
        await open_llm(database_url=f"sqlite+aiosqlite:///{tmp_path / 'bad.db'}")


async def test_a_store_that_cannot_be_written_is_refused(open_llm: OpenLLM, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreNotWritableError, match="store_dir"):
        await open_llm(store_dir=tmp_path / "file")


async def test_prompts_past_the_context_are_refused(open_llm: OpenLLM) -> None:
    llm = await open_llm()
    with pytest.raises(ContextLengthError, match=str(tiny.CONTEXT_TOKENS)):
        await llm.generate([user("a" * tiny.CONTEXT_TOKENS)])
    fits = await llm.generate([user("a" * (tiny.CONTEXT_TOKENS - 60))], max_new_tokens=500)
    assert fits.usage.total_tokens <= tiny.CONTEXT_TOKENS
    assert fits.finish_reason == "length"


@pytest.mark.parametrize(
    "messages", [[], "hi", {"role": "user"}, [{"role": "clown", "content": "a"}], [{"role": "user"}], [3], 7]
)
async def test_malformed_messages_are_refused(open_llm: OpenLLM, messages: Any) -> None:
    llm = await open_llm()
    with pytest.raises(InvalidMessagesError):
        await llm.generate(messages)


async def test_what_the_template_refuses_is_a_template_error(open_llm: OpenLLM) -> None:
    strict = copy.deepcopy(tiny.tokenizer())
    strict.chat_template = "{% if messages | length > 2 %}{{ raise_exception('too many') }}{% endif %}" + tiny.TEMPLATE
    llm = await open_llm(prepare(tiny.build("llama"), strict, "tiny-strict"))
    with pytest.raises(TemplateError, match=r"message 2: .* too many"):
        await llm.generate([user("a"), assistant("b"), user("c"), assistant("d")])
    assert (await llm.generate([user("a")])).tokens


@pytest.mark.parametrize(
    "options",
    [
        {"reuse": "sometimes"},
        {"max_new_tokens": 0},
        {"temperature": -1.0},
        {"top_p": 0.0},
        {"stop": ("",)},
        {"surprise": 1},
    ],
)
async def test_wrong_options_are_refused(open_llm: OpenLLM, options: dict[str, Any]) -> None:
    llm = await open_llm()
    with pytest.raises(ConfigurationError):
        await llm.generate(MESSAGES, **options)
    assert (await llm.generate(MESSAGES)).text


async def test_a_closed_adapter_says_so(open_llm: OpenLLM) -> None:
    llm = await open_llm()
    await llm.aclose()
    await llm.aclose()
    with pytest.raises(ClosedError):
        await llm.generate(MESSAGES)
    with pytest.raises(ClosedError):
        SemShareLLM.open(loaded=tiny.loaded("llama")).pipeline  # noqa: B018


@pytest.mark.parametrize("model", ["/nowhere/at/all", "./neither", "/nowhere/x.gguf"])
async def test_unknown_models_are_refused(tmp_path: Path, model: str) -> None:
    with pytest.raises(ModelNotFoundError):
        await SemShareLLM.open(model=model, home=tmp_path)


async def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(ModelNotFoundError):
        await SemShareLLM.open(model=str(tmp_path / "folder"), home=tmp_path)


async def test_a_saved_folder_loads_as_the_model_it_was(tmp_path: Path) -> None:
    known = tiny.loaded("llama")
    known.model.save_pretrained(tmp_path / "model")
    known.tokenizer.save_pretrained(tmp_path / "model")
    async with SemShareLLM.open(model=str(tmp_path / "model"), home=tmp_path, disk_bytes=0) as llm:
        answer = await llm.generate(MESSAGES, max_new_tokens=4)
        support = llm.pipeline.model.support
        assert support.rows is not None
        assert support.mover is not None
        assert len(answer.tokens) == 4
    assert sorted(p.name for p in (tmp_path / "speeds").iterdir()) != []
