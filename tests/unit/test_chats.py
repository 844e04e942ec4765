"""Chats for `semshare bench serve`: what each mode keeps and changes, and what a file has to have."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from semshare_agents.bench.agent import TOOLS
from semshare_agents.bench.chats import CLEARED, ChatOptions, Mode, made_chats, prompts, read_chats
from semshare_agents.bench.made import Message
from semshare_agents.errors import ConfigurationError
from semshare_agents.model.tokenise import clean_messages


def made(mode: str, turns: int = 4, history: int = 8, seed: int = 0) -> list[list[list[Message]]]:
    options = ChatOptions(Mode.parse(mode), sessions=3, turns=turns, history=history, seed=seed)
    return [prompts(chat, options, number) for number, chat in enumerate(made_chats(options))]


def tools_of(messages: list[Message]) -> list[str]:
    return messages[0]["content"].partition("Your tools:\n")[2].splitlines()


def test_the_same_seed_gives_the_same_prompts_and_another_one_others() -> None:
    for mode in Mode:
        assert made(mode) == made(mode)
        assert made(mode)[0] != made(mode)[1]
        assert made(mode) != made(mode, seed=1)


@pytest.mark.parametrize("mode", list(Mode))
def test_every_prompt_is_one_that_strict_templates_take(mode: Mode) -> None:
    for session in made(mode):
        for messages in session:
            assert clean_messages(messages)
            roles = [message["role"] for message in messages]
            assert roles == ["system", *["user", "assistant"] * (len(roles) // 2 - 1), "user"]


def test_append_only_appends() -> None:
    for session in made("append"):
        assert [len(messages) for messages in session] == [10, 12, 14, 16]
        for before, after in pairwise(session):
            assert after[: len(before)] == before


def test_the_clock_changes_the_beginning_alone() -> None:
    for plain, timed in zip(made("append"), made("clock"), strict=True):
        clocks = []
        for one, other in zip(plain, timed, strict=True):
            assert one[1:] == other[1:]
            clock, _, rest = other[0]["content"].partition("\n\n")
            assert rest == one[0]["content"]
            clocks.append(clock)
        assert len(set(clocks)) == len(clocks)
        assert all(clock.startswith("It is Thursday, 05 March 2026, ") for clock in clocks)


def test_a_window_keeps_its_length_and_drops_the_oldest() -> None:
    for appended, windowed in zip(made("append"), made("window"), strict=True):
        for turn, (whole, window) in enumerate(zip(appended, windowed, strict=True)):
            assert len(window) == 10
            assert window == [whole[0], *whole[1 + 2 * turn :]]


def test_tools_are_reordered_and_old_results_cleared_one_by_one() -> None:
    for appended, changed in zip(made("append"), made("tools"), strict=True):
        orders = [tools_of(messages) for messages in changed]
        assert all(before != after for before, after in pairwise(orders))
        assert all(sorted(order) == sorted(TOOLS) for order in orders)
        for turn, (one, other) in enumerate(zip(appended, changed, strict=True)):
            assert len(one) == len(other)
            differing = [i for i, (a, b) in enumerate(zip(one, other, strict=True)) if a != b][1:]
            assert len(differing) == turn
            results = [i for i, m in enumerate(one) if m["content"].startswith("Result of the tool:")]
            assert differing == results[:turn]
            assert all(other[i]["content"] == f"Result of the tool:\n{CLEARED}" for i in differing)


def test_what_was_just_asked_is_never_cleared() -> None:
    for messages in made("tools", turns=6, history=2)[0]:
        assert CLEARED not in messages[-1]["content"]


def test_a_chat_may_begin_with_nothing_said() -> None:
    assert [len(messages) for messages in made("append", history=0)[0]] == [2, 4, 6, 8]
    assert [len(messages) for messages in made("window", history=0)[0]] == [2, 2, 2, 2]


def test_answers_are_about_as_long_as_those_that_are_measured() -> None:
    for answer in (8, 200):
        chat = made_chats(ChatOptions(sessions=1, turns=2, history=40, answer=answer))[0]
        words = [len(part.answer.split()) for part in chat.rounds if part.has_result]
        assert all(answer * 0.7 <= count < answer * 0.75 + 30 for count in words)


@pytest.mark.parametrize(
    ("wrong", "problem"),
    [
        ({"sessions": 0}, "sessions must be at least 1; got 0"),
        ({"turns": -1}, "turns must be at least 1"),
        ({"answer": 0}, "answer must be at least 1"),
        ({"history": -2}, "history must be an even number"),
        ({"history": 3}, "history must be an even number of messages, questions and their answers; got 3"),
    ],
)
def test_numbers_that_make_no_chat_are_refused(wrong: dict[str, int], problem: str) -> None:
    with pytest.raises(ConfigurationError, match=problem):
        ChatOptions(**wrong)  # type: ignore[arg-type]


def test_an_unknown_mode_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="append, clock, window, tools; got 'ring'"):
        Mode.parse("ring")


# --- files


def recorded(tmp_path: Path, rounds: int, results: bool = True) -> Path:
    said: list[dict[str, Any]] = [{"role": "system", "content": "be brief"}, {"role": "assistant", "content": "hello"}]
    for number in range(rounds):
        said.append({"role": "user", "content": f"question {number}\nof two lines"})
        if results:
            said.append({"role": "tool", "content": f"result {number}"})
        said.append({"role": "assistant", "content": f"answer {number}"})
    said.append({"role": "user", "content": "never answered"})
    file = tmp_path / "chat.json"
    file.write_text(json.dumps(said))
    return file


def test_sessions_are_parts_of_a_file(tmp_path: Path) -> None:
    options = ChatOptions(Mode.APPEND, sessions=2, turns=2, history=4)
    first, second = read_chats(recorded(tmp_path, 8), options)
    assert [part.answer for part in first.rounds + second.rounds] == [f"answer {number}" for number in range(8)]
    assert prompts(second, options, 1)[0] == [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "question 4\nof two lines\nResult of the tool:\nresult 4"},
        {"role": "assistant", "content": "answer 4"},
        {"role": "user", "content": "question 5\nof two lines\nResult of the tool:\nresult 5"},
        {"role": "assistant", "content": "answer 5"},
        {"role": "user", "content": "question 6\nof two lines\nResult of the tool:\nresult 6"},
    ]


def test_results_of_a_file_are_cleared(tmp_path: Path) -> None:
    options = ChatOptions(Mode.TOOLS, sessions=1, turns=2, history=4)
    chat = read_chats(recorded(tmp_path, 4), options)[0]
    first, second = prompts(chat, options, 0)
    assert sorted(tools_of(first)) == sorted(tools_of(second)) == sorted(TOOLS)
    assert second[1]["content"] == f"question 0\nof two lines\nResult of the tool:\n{CLEARED}"
    assert second[2 : len(first)] == first[2:]


def test_a_file_without_a_system_prompt_has_none(tmp_path: Path) -> None:
    file = tmp_path / "bare.json"
    file.write_text(json.dumps([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]))
    plain, timed = (ChatOptions(mode, sessions=1, turns=1, history=0) for mode in (Mode.APPEND, Mode.CLOCK))
    assert prompts(read_chats(file, plain)[0], plain, 0) == [[{"role": "user", "content": "a"}]]
    assert prompts(read_chats(file, timed)[0], timed, 0)[0][0]["content"] == "It is Thursday, 05 March 2026, 09:00:00."


def test_files_that_are_too_short_or_of_another_kind_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"has 7 questions with answers; 2 sessions of 4 messages .* need 8"):
        read_chats(recorded(tmp_path, 7), ChatOptions(sessions=2, turns=2, history=4))
    with pytest.raises(ConfigurationError, match="none in the history of session 0"):
        read_chats(recorded(tmp_path, 8, results=False), ChatOptions(Mode.TOOLS, sessions=2, turns=2, history=4))
    file = tmp_path / "odd.json"
    for content, problem in (
        ([{"role": "narrator", "content": "once"}], "role narrator; known: system, user, assistant, tool"),
        ([{"role": "user", "content": None}], "is not a JSON list of role/content messages"),
        ({"role": "user"}, "is not a JSON list of role/content messages"),
    ):
        file.write_text(json.dumps(content))
        with pytest.raises(ConfigurationError, match=problem):
            read_chats(file, ChatOptions(sessions=1, turns=1, history=0))
