"""What becomes of messages under templates of many kinds: nothing is lost, results stand with their calls."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import pytest

from semshare_agents.errors import InvalidMessagesError, TemplateError
from semshare_agents.messages.cleaning import clean_messages
from semshare_agents.tools.depth import too_deep
from tests import tiny
from tests.prompts import (
    ALTERNATING,
    ANSWER,
    CHATML,
    QWEN_LIKE,
    WEATHER,
    XML_LIKE,
    call,
    calling,
    chat,
    prompt,
    result,
)
from tests.tiny import assistant, system, user

DROPS_TEXT_BESIDE_CALLS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.tool_calls %}{% for c in m.tool_calls %}"
    "<tool_call>{{ c.function.name }}({{ c.function.arguments | tojson }})</tool_call>{% endfor %}"
    "{% else %}{{ m.content }}{% endif %}<|im_end|>\n{% endfor %}"
) + ANSWER
ONE_CALL = (
    "{% for m in messages %}"
    "{% if m.tool_calls and m.tool_calls | length != 1 %}{{ raise_exception('one call') }}{% endif %}"
    "<|im_start|>{{ m.role }}\n{{ m.content }}{% for c in m.tool_calls or [] %}"
    "<tool_call>{{ c.function.name }}({{ c.function.arguments | tojson }}){% endfor %}<|im_end|>\n{% endfor %}"
) + ANSWER
WANTS_TEXT = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}{% for c in m.tool_calls or [] %}"
    "{{ '<tool_call>' + c.function.name + c.function.arguments + '</tool_call>' }}{% endfor %}<|im_end|>\n{% endfor %}"
) + ANSWER
SKIPS_RESULTS = (
    "{% for m in messages %}{% if m.role != 'tool' %}<|im_start|>{{ m.role }}\n{{ m.content }}"
    "{% for c in m.tool_calls or [] %}<tool_call>{{ c.function | tojson }}{% endfor %}<|im_end|>\n"
    "{% endif %}{% endfor %}"
) + ANSWER
SHORT_IDS = (
    "{% for m in messages %}{% for c in m.tool_calls or [] %}{% if c.id | length != 9 %}{{ raise_exception('id') }}"
    "{% endif %}{% endfor %}{{ m.role }}:{{ m.content }}{% for c in m.tool_calls or [] %}"
    "<tool_call>{{ c.id }}{{ c.function | tojson }}{% endfor %}{{ m.tool_call_id }}\n{% endfor %}"
)
SKIPS_ROLES = (
    "{% for m in messages %}{% if m.role in ('system', 'user', 'assistant') %}"
    "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endif %}{% endfor %}"
) + ANSWER
FIRST_SYSTEM = (
    "{% for m in messages %}{% if m.role == 'system' and not loop.first %}{{ raise_exception('first') }}{% endif %}"
    "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
) + ANSWER
NO_SYSTEM = (
    "{% for m in messages %}{% if m.role not in ('user', 'assistant') %}{{ raise_exception('no') }}{% endif %}"
    "{{ m.role }}:{{ m.content }}\n{% endfor %}"
)
DEVELOPER = (
    "{% for m in messages %}{% if m.role == 'developer' %}<rules>{{ m.content }}</rules>{% else %}"
    "{{ m.role }}:{{ m.content }}\n{% endif %}{% endfor %}"
)
ALL = {
    "chatml": CHATML,
    "qwen": QWEN_LIKE,
    "xml": XML_LIKE,
    "alternating": ALTERNATING,
    "drops text": DROPS_TEXT_BESIDE_CALLS,
    "one call": ONE_CALL,
    "wants text": WANTS_TEXT,
    "skips results": SKIPS_RESULTS,
    "short ids": SHORT_IDS,
    "skips roles": SKIPS_ROLES,
    "first system": FIRST_SYSTEM,
    "no system": NO_SYSTEM,
    "developer": DEVELOPER,
}
BROKEN = ['{"value": "half', "[1, 2]", '"text"', "7", "[" * 2000, "{" * 3000, '{"a": ' * 200 + "1" + "}" * 200]


def in_order(text: str, *words: str) -> bool:
    places = [text.index(word) for word in words]
    return places == sorted(places)


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("tools", [None, [WEATHER]])
@pytest.mark.parametrize(("text", "several"), list(itertools.product([False, True], repeat=2)))
def test_nothing_of_a_round_is_lost(kind: str, tools: Any, text: bool, several: bool) -> None:
    calls = [call("first", "call_one", {"a": "ulm"}), call("second", "call_two", {"b": "rome"})][: 1 + several]
    results = [result("call_two", "rainy"), result("call_one", "sunny")][1 - several :]
    told = prompt(ALL[kind], [user("hello"), calling(*calls, text="looking" if text else ""), *results], tools)
    assert in_order(told, "hello", *(["looking"] if text else []), "first", "ulm", "sunny")
    if several:
        # Results stand in the order of their calls, or each behind its own.
        assert in_order(told, "first", "ulm", "second", "rome", "rainy")
        assert in_order(told, "sunny", "rainy")
    assert ("The weather." in told) == (tools is not None)


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("tools", [None, [WEATHER]])
def test_rules_are_never_lost(kind: str, tools: Any) -> None:
    assert "be brief" in prompt(ALL[kind], [{"role": "developer", "content": "be brief"}, user("hello")], tools)
    said = [system("be brief"), {"role": "developer", "content": "be kind"}, user("hello")]
    assert in_order(prompt(ALL[kind], said, tools), "be brief", "be kind", "hello")


@pytest.mark.parametrize("kind", ["chatml", "qwen", "skips roles", "first system", "alternating"])
def test_a_developer_is_the_system_where_the_template_knows_none(kind: str) -> None:
    developer = prompt(ALL[kind], [{"role": "developer", "content": "be brief"}, user("hi")])
    assert developer == prompt(ALL[kind], [system("be brief"), user("hi")])


def test_a_template_that_knows_the_developer_gets_it() -> None:
    assert "<rules>be brief</rules>" in prompt(DEVELOPER, [{"role": "developer", "content": "be brief"}, user("hi")])


def test_a_later_system_message_is_rendered_or_told_by_the_user() -> None:
    talk = [system("first"), user("ask"), assistant("tell"), system("later"), user("again")]
    assert "<|im_start|>system\nlater<|im_end|>" in prompt(CHATML, talk)
    for template in (FIRST_SYSTEM, NO_SYSTEM, ALTERNATING):
        assert in_order(prompt(template, talk), "ask", "tell", "<system>\nlater\n</system>", "again")


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("broken", BROKEN)
def test_broken_arguments_end_no_talk(kind: str, broken: str) -> None:
    made = {"id": "call_one", "type": "function", "function": {"name": "first", "arguments": broken}}
    talk = [user("hello"), calling(made), result("call_one", "not valid"), user("again")]
    told = prompt(ALL[kind], talk)
    assert in_order(told, "hello", "first", "not valid", "again")
    assert broken[:6].strip('"') in told.replace('\\"', '"')


@pytest.mark.parametrize("empty", ["", "null", None, "{}"])
def test_no_arguments_are_none(empty: Any) -> None:
    made = {"id": "c", "type": "function", "function": {"name": "f", "arguments": empty}}
    plain = prompt(QWEN_LIKE, [user("a"), calling(call("f", "c")), result("c", "x")])
    assert prompt(QWEN_LIKE, [user("a"), calling(made), result("c", "x")]) == plain


# --- pairing


@pytest.mark.parametrize(
    ("talk", "problem"),
    [
        ([calling(call("f", "a")), result("b", "x")], "message 1 .* 'b'.* message 0 are: 'a'"),
        ([calling(call("f", "a")), result("a", "x"), result("a", "y")], "message 2 is a second result"),
        ([calling(call("f", "a"), call("g", "a"))], "message 0 has two tool calls with the id 'a'"),
        ([calling(call("f", "a"), call("g", "b")), result(None, "x")], "message 1 .* no named call"),
        ([calling(call("f", "a")), result("a", "x"), user("so"), result("a", "y")], "message 3 is a second result"),
        ([calling(call("f", "")), result(None, "x"), result(None, "y")], "message 2 "),
    ],
)
def test_results_that_answer_no_call_are_named(talk: Any, problem: str) -> None:
    with pytest.raises(InvalidMessagesError, match=problem):
        prompt(QWEN_LIKE, talk)


def test_results_without_ids_are_bound_where_only_one_call_can_be_meant() -> None:
    calls = calling(call("first", "a"), call("second", "b"))
    named = [user("q"), calls, result(None, "rainy", name="second"), result(None, "sunny")]
    assert in_order(prompt(QWEN_LIKE, named), "sunny", "rainy")
    bare = [user("q"), calling(call("first", ""), call("second", "")), result(None, "one"), result(None, "two")]
    assert in_order(prompt(QWEN_LIKE, bare), "one", "two")


def test_ids_may_come_again_in_a_later_round() -> None:
    rounds = [calling(call("f", "call_0")), result("call_0", "one"), assistant("so")]
    told = prompt(QWEN_LIKE, [user("q"), *rounds, user("r"), calling(call("f", "call_0")), result("call_0", "two")])
    assert in_order(told, "one", "two")


def test_a_result_after_a_call_without_one_is_not_taken_for_its() -> None:
    told = prompt(QWEN_LIKE, [user("q"), calling(call("f", "a"), call("g", "b")), result("b", "rainy")])
    assert told.count("<tool_response>") == 2
    assert in_order(told, "(no result)", "rainy")


@pytest.mark.parametrize("kind", ALL)
def test_a_trimmed_history_goes_on(kind: str) -> None:
    told = prompt(ALL[kind], [result("gone", "sunny"), result("gone too", "rainy"), user("and now?")])
    assert in_order(told, "sunny", "rainy", "and now?")


# --- thoughts

FIELDS = ["reasoning_content", "thinking", "reasoning"]


@pytest.mark.parametrize("sent", FIELDS)
@pytest.mark.parametrize("known", FIELDS)
def test_thoughts_come_under_the_name_that_the_template_knows(sent: str, known: str) -> None:
    template = QWEN_LIKE.replace("reasoning_content", known)
    told = prompt(template, [user("q"), {**calling(call("f", "a")), sent: "hmm"}, result("a", "x")])
    assert "<think>\nhmm\n</think>" in told


@pytest.mark.parametrize("part", [{"type": "reasoning", "reasoning": "hmm"}, {"type": "thinking", "thinking": "hmm"}])
def test_thoughts_may_be_parts_of_the_content(part: Any) -> None:
    answer = {**calling(call("f", "a")), "content": [part, {"type": "text", "text": "so"}]}
    assert in_order(prompt(QWEN_LIKE, [user("q"), answer, result("a", "x")]), "<think>\nhmm\n</think>", "so")


def test_a_template_without_thoughts_gets_those_of_the_turn_under_way() -> None:
    under_way = {**calling(call("f", "a")), "reasoning_content": "hmm"}
    assert "hmm" in prompt(CHATML, [user("q"), under_way, result("a", "x")])
    over = {**assistant("so"), "reasoning_content": "hmm"}
    assert prompt(CHATML, [user("q"), over, user("r")]) == prompt(CHATML, [user("q"), assistant("so"), user("r")])


def test_the_marks_of_thoughts_are_seen_in_the_template() -> None:
    assert chat(QWEN_LIKE.replace("think>", "ponder>")).template.thoughts[0] == ("<ponder>", "</ponder>")
    assert chat(CHATML).template.thoughts == chat(QWEN_LIKE).template.thoughts


# --- what else


def test_what_the_caller_gave_stays_as_it_was() -> None:
    talk = [system("s"), user("q"), calling(call("f", "a", {"x": "<|im_end|>"}), text="t"), result("a", "x")]
    before = copy.deepcopy(talk)
    for template in ALL.values():
        prompt(template, talk, [WEATHER])
    assert talk == before


def test_the_system_message_keeps_its_text_before_tools() -> None:
    told = prompt(CHATML, [system("Be brief."), user("a")], [WEATHER])
    assert "Be brief.\n\nYou can call functions." in told
    assert told.count("<|im_start|>system") == 1


def test_the_message_that_a_template_refuses_is_named() -> None:
    refusal = "{% if 'bad' in m.content %}{{ raise_exception('no') }}{% endif %}"
    template = f"{{% for m in messages %}}{refusal}{{{{ m.content }}}}{{% endfor %}}"
    for at in range(5):
        talk = [user("bad" if i == at else "ok") for i in range(5)]
        with pytest.raises(TemplateError, match=f"message {at}: "):
            prompt(template, talk)


@pytest.mark.parametrize("levels", [101, 990, 100_000])
def test_depth_is_measured_without_recursion(levels: int) -> None:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    assert too_deep(value)
    assert not too_deep([[[1]]])
    if levels < 1000:
        with pytest.raises(InvalidMessagesError, match="message 1 is nested deeper"):
            clean_messages([tiny.user("a"), {**calling(call("f", "a", {"x": value}))}])


def test_calls_of_the_older_form_are_calls() -> None:
    older = {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": '{"a": "ulm"}'}}
    told = prompt(QWEN_LIKE, [user("q"), older, {"role": "function", "name": "f", "content": "sunny"}])
    assert in_order(told, "<tool_call>", "ulm", "<tool_response>", "sunny")
