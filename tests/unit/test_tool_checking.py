"""Tools and the choice among them, as callers give them."""

from __future__ import annotations

from typing import Any

import pytest

from semshare_agents.errors import InvalidToolsError
from semshare_agents.tools.checking import clean_choice, clean_tools
from tests.prompts import WEATHER


def nested(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "object"}
    for _ in range(levels):
        schema = {"type": "object", "properties": {"x": schema}}
    return schema


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
        (
            [{"type": "function", "function": {"name": "f", "parameters": nested(600)}}],
            "'f' are nested deeper than 100 levels",
        ),
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
