"""Every form of messages that hosted APIs take, under templates of six kinds: answered, and nothing of it dropped."""

from __future__ import annotations

import time
from itertools import pairwise
from typing import Any

import pytest

from semshare_agents.errors import InvalidMessagesError, PromptError, TemplateError
from semshare_agents.messages.cleaning import clean_messages
from semshare_agents.messages.thinking import wish
from tests import message_table, tiny
from tests.forms import FORMS, TOOL, UNSAID, Form, call, calls, result
from tests.message_table import chat
from tests.templates import TEMPLATES
from tests.tiny import assistant, system, user

CALLED = [calls(call("call_1"), content="looking", reasoning_content="hmm"), result("sunny")]
BARE = [calls(call("call_1"), call("call_2", '{"where": "Rome"}')), result("sunny"), result("rainy", "call_2")]


def prompt(name: str, messages: list[dict[str, Any]], tools: Any = (), **wanted: Any) -> str:
    """The prompt's text, control tokens included."""
    made = chat(name)
    asked = wish(wanted.get("reasoning_effort"), wanted.get("chat_template_kwargs"))
    ids = made.ids(clean_messages(messages), list(tools), asked)
    return str(made._tokenizer.decode(ids, skip_special_tokens=False))


def in_order(text: str, words: tuple[str, ...]) -> bool:
    at = 0
    for word in words:
        found = text.find(word, at)
        if found < 0:
            return False
        at = found + len(word)
    return True


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
def test_nothing_of_a_form_is_dropped(name: str, form: Form) -> None:
    told = prompt(name, form.messages, message_table.tools_of(form))
    assert in_order(told, form.words) or in_order(told.replace("\\n", "\n"), form.words), told


def test_there_are_forms_enough() -> None:
    assert len({form.name for form in FORMS}) == len(FORMS) == 47


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize(("what", "messages", "where"), UNSAID, ids=[what for what, _, _ in UNSAID])
def test_what_cannot_be_said_is_an_error_that_names_the_message(
    name: str, what: str, messages: list[dict[str, Any]], where: str
) -> None:
    with pytest.raises(PromptError, match=where):
        prompt(name, messages)


def test_the_page_has_the_table() -> None:
    assert message_table.table() in message_table.PAGE.read_text(), "run: python -m tests.message_table"


# --- what was said stays said


def turns(*between: dict[str, Any], first: tuple[dict[str, Any], ...] = ()) -> list[dict[str, Any]]:
    """Ten turns, each with what is `between` question and answer, with ids of its own."""
    talk = [*first]
    for turn in range(10):
        own = [{**m, "content": f"{m['content']} {turn}" if m.get("content") else m.get("content")} for m in between]
        talk += [user(f"asked {turn}"), *own, assistant(f"told {turn}")]
    return talk


LATER = [m for pair in zip(turns()[::2], turns()[1::2], strict=True) for m in (*pair, system("by the way"))]
TALKS: dict[str, tuple[list[dict[str, Any]], list[dict[str, Any]]]] = {
    "plain": (turns(), []),
    "rules": (turns(first=(system("rule"),)), []),
    "rules and tools": (turns(first=(system("rule"),)), [TOOL]),
    "calls with text and thoughts": (turns(*CALLED, first=(system("rule"),)), [TOOL]),
    "several calls": (turns(*BARE), [TOOL]),
    "calls without tools": (turns(*BARE), []),
    "later rules": (LATER, []),
}


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("kind", TALKS)
def test_ten_turns_move_nothing_of_the_history(name: str, kind: str) -> None:
    """The prompt of each step, without what only begins the answer, begins the prompt of the next one."""
    (talk, tools), made = TALKS[kind], chat(name)
    ends = [k + 1 for k, m in enumerate(talk) if _asks(talk, k)]
    began = [made.ids(clean_messages(talk[:end]), tools).tolist() for end in ends]
    asked = [user("?")]
    answer = made.template.render(asked)[len(made.template.render(asked, answer=False)) :]
    opening = len(made.control.encoded(answer)) if answer else 0
    for before, after in pairwise(began):
        history = before[: len(before) - opening]
        assert after[: len(history)] == history, made._tokenizer.decode(after)


def _asks(talk: list[dict[str, Any]], at: int) -> bool:
    """Whether a model would answer behind a message: one of the user or the last result."""
    after = talk[at + 1]["role"] if at + 1 < len(talk) else "assistant"
    return talk[at]["role"] in ("user", "tool") and after == "assistant"


def test_thoughts_of_a_round_stay_and_those_of_an_answer_go() -> None:
    round_ = [user("asked"), *CALLED]
    over = [*round_, {**assistant("told"), "reasoning_content": "musing"}, user("again")]
    for name in ("Qwen3", "Qwen3.5", "ChatML"):
        assert "hmm" in prompt(name, round_, [TOOL])
        told = prompt(name, over, [TOOL])
        assert in_order(told, ("asked", "hmm", "looking", "sunny", "told", "again"))
        assert "musing" not in told


# --- answers that go on


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_last_answer_is_continued(name: str) -> None:
    assert prompt(name, [user("asked"), assistant("The sky is ")]).endswith("The sky is ")
    assert prompt(name, [user("asked"), assistant("")]) == prompt(name, [user("asked")])


# --- thinking


def test_thinking_is_switched_by_what_clients_send() -> None:
    asked = [user("asked")]
    off = prompt("Qwen3", asked, reasoning_effort="none")
    assert off.endswith("<think>\n\n</think>\n\n")
    assert off == prompt("Qwen3", asked, chat_template_kwargs={"enable_thinking": False})
    assert prompt("Qwen3", asked, reasoning_effort="low") == prompt("Qwen3", asked)
    # The variable's own name counts before the effort.
    both = {"reasoning_effort": "none", "chat_template_kwargs": {"enable_thinking": True}}
    assert prompt("Qwen3", asked, **both) == prompt("Qwen3", asked)
    for name in ("Llama 3", "knows nothing"):
        assert prompt(name, asked, reasoning_effort="none") == prompt(name, asked)


def test_a_thought_that_the_prompt_always_opens_is_closed_where_none_is_wanted() -> None:
    made = message_table.prompts.chat(
        tiny.TEMPLATE.replace("assistant\n{% endif %}", "assistant\n<think>\n{% endif %}")
    )
    asked = clean_messages([user("asked")])
    assert made.text(asked, []).endswith("assistant\n<think>\n")
    assert made.text(asked, [], wish("none", None)).endswith("assistant\n<think>\n\n</think>\n\n")


@pytest.mark.parametrize(
    ("effort", "variables"), [("lots", None), (True, None), (None, "x"), (None, {"messages": []}), (None, {1: 2})]
)
def test_wishes_that_are_none_are_refused(effort: Any, variables: Any) -> None:
    with pytest.raises(ValueError, match=r"reasoning_effort|chat_template_kwargs"):
        wish(effort, variables)


# --- texts and time


def test_halves_of_letters_are_the_callers_fault() -> None:
    with pytest.raises(InvalidMessagesError, match="message 1"):
        prompt("ChatML", [user("a"), assistant("\ud800"), user("b")])


def test_a_template_may_space_a_text_otherwise_but_not_drop_it() -> None:
    source = "{% for m in messages %}[{{ m.role }}] {{ m.content CHANGED }}\n{% endfor %}"
    spaced = source.replace("CHANGED", "| replace('\\n', ' ')")
    assert "one two" in message_table.prompts.prompt(spaced, [user("one\ntwo")])
    dropping = source.replace("CHANGED", "if m.content | length < 20 else '...'")
    with pytest.raises(TemplateError, match=r"message 2: .* does not say it"):
        message_table.prompts.prompt(dropping, [user("short"), assistant("so"), user("long " * 20)])


def test_a_template_for_pictures_gets_its_parts() -> None:
    template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{% for part in m.content %}"
        "{% if part.type == 'text' %}{{ part.text }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    )
    told = message_table.prompts.prompt(template, [system("rule"), user("asked"), assistant("told"), user("so")])
    assert in_order(told, ("rule", "asked", "told", "so"))


@pytest.mark.alone
@pytest.mark.parametrize("name", TEMPLATES)
def test_two_thousand_messages_are_prepared_in_time(name: str) -> None:
    talk = [system("rule"), *(m for k in range(500) for m in (user("x " * 200), *BARE[:2], assistant("y " * 200)))]
    talk = [{**m, "tool_calls": [call(f"call_{k}")]} if "tool_calls" in m else m for k, m in enumerate(talk)]
    talk = [{**m, "tool_call_id": f"call_{k - 1}"} if m["role"] == "tool" else m for k, m in enumerate(talk)]
    made, took = chat(name), []
    for _ in range(5):
        began = time.process_time()
        made.told(clean_messages(talk), [TOOL])
        took.append(time.process_time() - began)
    assert min(took) < 0.1
