"""JSON schemas as peers write them: read, and odd ones of one tool passed over."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from semshare_agents.constrain.constraint import Constrainer
from semshare_agents.constrain.dialects import closed, plain
from semshare_agents.constrain.grammar import answer_grammar
from semshare_agents.errors import InvalidSchemaError
from semshare_agents.request.output import OutputControl, response_spec
from semshare_agents.tools.hermes import Hermes
from tests import tiny

CONSTRAINER = Constrainer(tiny.tokenizer(), {2})
OUTPUT = OutputControl(tiny.tokenizer(), frozenset({2}))
A = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}
B = {"type": "object", "properties": {"b": {"type": "integer"}}, "required": ["b"]}


def allows(schema: dict[str, Any], text: str) -> bool:
    """Whether a text is a whole answer under a schema."""
    grammar = answer_grammar(schema, [], "none", False, Hermes(), {})
    held = CONSTRAINER.constraint(grammar)
    tokens = tiny.tokenizer().encode(text, add_special_tokens=False)
    return held.began(tokens) and held.complete


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        ({"allOf": [A, B]}, '{"a": "x", "b": 1}', '{"a": "x"}'),
        (
            {"$defs": {"A": A, "B": B}, "allOf": [{"$ref": "#/$defs/A"}, {"$ref": "#/$defs/B"}]},
            '{"a": "x", "b": 1}',
            '{"b": 1}',
        ),
        (
            {"$defs": {"A": A}, "allOf": [{"$ref": "#/$defs/A"}], **B},
            '{"a": "x", "b": 1}',
            '{"b": 1}',
        ),
        (
            {"$defs": {"A": A}, "type": "object", "properties": {"x": {"allOf": [{"$ref": "#/$defs/A"}]}}},
            '{"x": {"a": "y"}}',
            '{"x": {"a": "y", "c": 1}}',
        ),
        ({"type": "OBJECT", "properties": {"n": {"type": "INTEGER"}}}, '{"n": 3}', '{"n": "3"}'),
        ({"type": "dict", "properties": {"n": {"type": "float"}}}, '{"n": 3.5}', '{"n": "3"}'),
        ({"type": "object", "properties": {"n": {"type": "string", "nullable": True}}}, '{"n": null}', '{"n": 3}'),
        ({"type": "object", "properties": {"n": {"type": ["str", "none"]}}}, '{"n": null}', '{"n": 3}'),
        ({"type": "object", "properties": {"n": {"type": "any"}}, "required": ["n"]}, '{"n": [1]}', "{}"),
        ({"type": "object", "properties": {"n": {"type": "bool", "enum": None}}, "required": None}, "{}", '{"n": 1}'),
        ({"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["m"]}, '{"m": 1}', '{"n": 1}'),
        ({"type": "object", "properties": {"n": {"const": None}}, "required": ["n"]}, '{"n": null}', '{"n": 1}'),
    ],
    ids=str,
)
def test_schemas_of_other_dialects(schema: dict[str, Any], good: str, bad: str) -> None:
    assert allows(schema, good)
    assert not allows(schema, bad)


def test_what_needs_no_change_stays_as_it_is() -> None:
    schema = {**A, "additionalProperties": False, "title": "T", "description": "d", "default": None}
    assert closed(schema) == schema
    assert plain(schema) == schema


def test_a_schema_that_no_answer_keeps_to_is_refused() -> None:
    for schema in ({"type": "objec"}, {"type": "object", "properties": 3}, {"allOf": [{"type": "string"}, B]}):
        with pytest.raises(InvalidSchemaError):
            allows(schema, "{}")


ODD: list[tuple[dict[str, Any], str]] = [
    ({"type": "object", "properties": {"x": {"$ref": "#/$defs/Nope"}, "y": {"type": "integer"}}}, "x"),
    ({"type": "object", "properties": {"x": {"type": "string", "pattern": "(?=a)b"}, "y": {"type": "integer"}}}, "x"),
    ({"type": "object", "properties": {"x": "text", "y": {"type": "integer"}}, "required": ["x"]}, "x"),
    ({"type": "object", "properties": {"x": {"type": "colour"}, "y": {"type": "integer"}}}, "x"),
    ({"type": "object", "properties": {"y": {"type": "integer"}}, "allOf": [{"type": "string"}]}, "its schema"),
]


def tool(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": schema}}


@pytest.mark.parametrize("choice", ["auto", "required"])
@pytest.mark.parametrize(("schema", "told"), ODD, ids=str)
def test_an_odd_tool_blocks_no_other(
    schema: dict[str, Any], told: str, choice: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, logger="semshare_agents")  # a command that ran before has made it quiet
    response = response_spec([tool("good", A), tool("odd", schema)], choice, False, None)
    constraint = OUTPUT.constraint(response)
    assert constraint is not None
    assert "'odd'" in caplog.text
    assert caplog.messages[-1].endswith(f"held to {told}")
    for begun in ('{"name": "odd", "arguments": {"', '{"name": "good", "arguments": {"a": "'):
        if choice == "required":
            held: Any = OUTPUT.constraint(response)
            assert held.began(tiny.tokenizer().encode(f"<tool_call>\n{begun}", add_special_tokens=False))


def test_a_good_tool_is_held_to_its_schema_beside_an_odd_one() -> None:
    response = response_spec([tool("good", A), tool("odd", ODD[0][0])], "required", False, None)
    text = '<tool_call>\n{"name": "good", "arguments": {"b"'
    held = OUTPUT.constraint(response)
    assert not held.began(tiny.tokenizer().encode(text, add_special_tokens=False))  # type: ignore[union-attr]


def test_a_schema_of_the_answer_is_not_loosened() -> None:
    with pytest.raises(InvalidSchemaError):
        OUTPUT.constraint(response_spec([tool("good", A)], "auto", False, {"type": "colour"}))
