"""Tools, calls and results in the prompt, with templates that know them and templates that do not."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from semshare_agents.errors import InvalidToolsError
from semshare_agents.tools import format_of
from semshare_agents.tools.checking import clean_choice, clean_tools
from semshare_agents.tools.prompt import ToolPrompt
from tests import tiny

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather.",
        "parameters": {"type": "object", "properties": {"where": {"type": "string"}}},
    },
}
CALL = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": {"where": "Ulm"}}}
TALK: list[dict[str, Any]] = [
    tiny.user("What is the weather?"),
    {"role": "assistant", "content": "I look.", "tool_calls": [CALL, CALL]},
    {"role": "tool", "tool_call_id": "c1", "content": "sun"},
    {"role": "tool", "tool_call_id": "c1", "content": "rain"},
]
KNOWS_ALL = (
    "{% for t in tools or [] %}<tool>{{ t.function.name }}</tool>{% endfor %}"
    "{% for m in messages %}{{ m.role }}:{{ m.content }}"
    "{% for c in m.tool_calls or [] %}<tool_call>{{ c.function.name }}({{ c.function.arguments | tojson }}){% endfor %}"
    "\n{% endfor %}"
)
NO_SYSTEM = (
    "{% for m in messages %}{% if m.role not in ('user', 'assistant') %}{{ raise_exception('no') }}{% endif %}"
    + ("{{ m.role }}:{{ m.content }}\n{% endfor %}")
)


def prompt(template: str) -> tuple[ToolPrompt, Any]:
    tokenizer = copy.deepcopy(tiny.tokenizer())
    tokenizer.chat_template = template
    return ToolPrompt(tokenizer, format_of(template)), tokenizer


def test_a_template_that_knows_tools_gets_them_as_they_are() -> None:
    made, tokenizer = prompt(KNOWS_ALL)
    messages, tools = made.prepared(TALK, [WEATHER])
    assert (messages, tools) == (TALK, [WEATHER])
    text = tokenizer.apply_chat_template(messages, tools=tools, tokenize=False)
    assert "<tool>weather</tool>" in text
    assert '<tool_call>weather({"where": "Ulm"})' in text


@pytest.mark.parametrize("template", [tiny.TEMPLATE, NO_SYSTEM])
def test_other_templates_are_told_in_words(template: str) -> None:
    made, tokenizer = prompt(template)
    messages, tools = made.prepared(TALK, [WEATHER])
    assert tools is None
    text = tokenizer.apply_chat_template(messages, tokenize=False)
    assert '{"name": "weather", "description": "The weather.", "parameters"' in text
    assert text.count('<tool_call>\n{"name": "weather", "arguments": {"where": "Ulm"}}\n</tool_call>') == 2
    assert "I look.\n<tool_call>" in text
    assert "<tool_response>\nsun\n</tool_response>\n<tool_response>\nrain\n</tool_response>" in text
    # Templates that insist on turns in alternation get them.
    assert [m["role"] for m in messages if m["role"] != "system"] == ["user", "assistant", "user"]
    assert (messages[0]["role"] == "system") == (template == tiny.TEMPLATE)


def test_what_the_caller_gave_stays_as_it_was() -> None:
    made, _ = prompt(tiny.TEMPLATE)
    before = copy.deepcopy(TALK)
    made.prepared(TALK, [WEATHER])
    assert before == TALK


def test_the_system_message_keeps_its_text() -> None:
    made, _ = prompt(tiny.TEMPLATE)
    messages, _ = made.prepared([tiny.system("Be brief."), tiny.user("a")], [WEATHER])
    assert len(messages) == 2
    assert messages[0]["content"].startswith("Be brief.\n\nYou can call functions.")


def test_without_tools_nothing_changes() -> None:
    made, _ = prompt(tiny.TEMPLATE)
    messages = [tiny.user("a")]
    assert made.prepared(messages, []) == (messages, None)


@pytest.mark.parametrize(
    ("tools", "problem"),
    [
        ("weather", "must be a list"),
        ({"type": "function"}, "must be a list"),
        (["weather"], "tool 0 is not of the form"),
        ([{"type": "function"}], "tool 0 is not of the form"),
        ([{"type": "web_search", "function": {"name": "f"}}], "tool 0 is not of the form"),
        ([{"type": "function", "function": {"name": ""}}], "has the name ''"),
        ([{"type": "function", "function": {"name": "a b"}}], "has the name 'a b'"),
        ([{"type": "function", "function": {"name": "f", "description": 3}}], "description"),
        ([{"type": "function", "function": {"name": "f", "parameters": []}}], "JSON schema of an object"),
        ([{"type": "function", "function": {"name": "f", "parameters": {"type": "string"}}}], "of an object"),
        ([WEATHER, WEATHER], "two tools have the name 'weather'"),
    ],
)
def test_malformed_tools_say_what_is_wrong(tools: Any, problem: str) -> None:
    with pytest.raises(InvalidToolsError, match=problem):
        clean_tools(tools)


def test_tools_need_no_parameters() -> None:
    [tool] = clean_tools([{"type": "function", "function": {"name": "f"}}])
    assert tool["function"] == {
        "name": "f",
        "description": "",
        "parameters": {"type": "object", "properties": {}},
    }


@pytest.mark.parametrize(
    ("choice", "word"),
    [
        (None, "auto"),
        ("auto", "auto"),
        ("none", "none"),
        ("required", "required"),
        ("any", "required"),
        ("weather", "weather"),
        ({"type": "function", "function": {"name": "weather"}}, "weather"),
    ],
)
def test_choices(choice: Any, word: str) -> None:
    assert clean_choice(choice, [WEATHER]) == word


@pytest.mark.parametrize("choice", ["wether", 3, {"type": "function"}, {"function": {"name": "x"}}, True])
def test_unknown_choices_are_refused(choice: Any) -> None:
    with pytest.raises(InvalidToolsError, match="weather"):
        clean_choice(choice, [WEATHER])


def test_nothing_can_be_required_without_tools() -> None:
    with pytest.raises(InvalidToolsError, match="no tools"):
        clean_choice("required", [])
