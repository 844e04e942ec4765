"""Calls with a tag for each argument: read into JSON while they come, and drawn under a grammar."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import jsonschema_rs
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from semshare_agents.constrain.constraint import Constrainer
from semshare_agents.constrain.grammar import answer_grammar
from semshare_agents.model.generate import Sampler
from semshare_agents.tools.calls import CallStream
from semshare_agents.tools.xml import XmlLike
from semshare_agents.values import Sampling, ToolCall
from tests import tiny

TEXT = {"type": "string"}
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "text": TEXT,
        "maybe": {"anyOf": [TEXT, {"type": "null"}]},
        "count": {"type": "integer"},
        "on": {"type": "boolean"},
        "list": {"type": "array", "items": {"$ref": "#/$defs/word"}},
        "word": {"$ref": "#/$defs/word"},
        "any": {},
    },
    "required": ["text"],
    "$defs": {"word": {"enum": ["yes", "no"]}},
}


def read(pieces: list[str], schema: Any = SCHEMA) -> tuple[str, list[ToolCall], str]:
    """Text, calls, and the last call's arguments as they were streamed."""
    stream, text, streamed = CallStream(XmlLike(), {"f": schema}), "", ""
    for piece in pieces:
        out, parts = stream.push(piece)
        text += out
        streamed += "".join(part.arguments for part in parts)
    return text + stream.finish(), list(stream.calls), streamed


values = {
    "text": st.text(max_size=12).filter(lambda t: "</parameter>" not in t),
    "count": st.integers(),
    "on": st.booleans(),
    "list": st.lists(st.sampled_from(["yes", "no"]), max_size=3),
    "word": st.sampled_from(["yes", "no"]),
}


@given(given_=st.fixed_dictionaries({}, optional=values), cuts=st.lists(st.integers(0, 300), max_size=40))
def test_what_a_model_writes_is_read_again(given_: dict[str, Any], cuts: list[int]) -> None:
    written = XmlLike().written([ToolCall("", "f", json.dumps(given_))])
    edges = [0, *sorted(min(c, len(written)) for c in cuts), len(written)]
    text, [call], streamed = read([written[a:b] for a, b in pairwise(edges)])
    assert (text, call.name, call.whole) == ("", "f", True)
    assert json.loads(call.arguments) == given_
    assert streamed == call.arguments


@pytest.mark.parametrize(
    ("key", "written", "value"),
    [
        ("text", "5", "5"),
        ("text", "two\nlines\n", "two\nlines\n"),
        ("text", ' "quoted" \\ ', ' "quoted" \\ '),
        ("text", "null", "null"),
        ("maybe", "null", None),
        ("maybe", "5", "5"),
        ("count", "5", 5),
        ("count", "five", "five"),
        ("on", "True", True),
        ("on", "false", False),
        ("list", '["yes"]', ["yes"]),
        ("list", "['yes']", ["yes"]),
        ("list", "[" * 3000, "[" * 3000),
        ("any", "5", 5),
        ("any", "NaN", "NaN"),
        ("any", "five", "five"),
        ("unknown", '{"a": 1}', {"a": 1}),
    ],
)
def test_values_are_what_the_schema_says(key: str, written: str, value: Any) -> None:
    answer = f"<tool_call>\n<function=f>\n<parameter={key}>\n{written}\n</parameter>\n</function>\n</tool_call>"
    for pieces in ([answer], list(answer)):
        _, [call], _ = read(pieces)
        assert json.loads(call.arguments) == {key: value}


def test_texts_flow_while_they_are_written() -> None:
    stream = CallStream(XmlLike(), {"f": SCHEMA})
    stream.push("<tool_call>\n<function=f>\n<parameter=text>\n")
    assert stream.push("one ")[1][-1].arguments.endswith("one ")
    assert stream.push("two\n")[1][0].arguments == "two"
    assert stream.push("three")[1][0].arguments == "\\nthree"


@pytest.mark.parametrize(
    "answer", ["<tool_call>\n<func", "<tool_call>\nwhat", "<tool_call>\n<function=>\n", "<function"]
)
def test_what_is_no_call_is_text(answer: str) -> None:
    assert read(list(answer))[:2] == (answer, [])


def test_a_second_call_follows() -> None:
    calls = [ToolCall("", "f", '{"text": "a"}'), ToolCall("", "f", "{}")]
    _, found, _ = read([XmlLike().written(calls)])
    assert [call.arguments for call in found] == ['{"text": "a"}', "{}"]


DRAWN: dict[str, Any] = {
    "type": "object",
    "properties": {
        "text": {"type": "string", "minLength": 2, "maxLength": 5},
        "word": {"$ref": "#/$defs/word"},
        "on": {"type": "boolean"},
        "list": {"type": "array", "items": {"$ref": "#/$defs/word"}, "maxItems": 2},
    },
    "required": ["text", "word", "on"],
    "$defs": {"word": {"enum": ["yes", "no"]}},
}


@pytest.mark.parametrize("seed", range(20))
def test_forced_calls_keep_to_their_schema(seed: int) -> None:
    tool = {"type": "function", "function": {"name": "f", "description": "", "parameters": DRAWN}}
    made = Constrainer(tiny.tokenizer(), {2}).constraint(answer_grammar(None, [tool], "f", False, XmlLike(), {}))
    sampler = Sampler(Sampling(temperature=1.0, seed=seed), np.asarray([1]), torch.device("cpu"), made)
    generator, tokens = torch.Generator().manual_seed(seed), list[int]()
    while not sampler.complete and len(tokens) < 400:
        tokens.append(sampler.next(torch.randn(tiny.VOCABULARY, generator=generator)))
    text = tiny.tokenizer().decode([t for t in tokens if t != 2])
    said, [call], _ = read([text], DRAWN)
    assert (said, call.whole) == ("", True)
    arguments = json.loads(call.arguments)
    # A drawn text may be no character at all: bytes stand for themselves in this tokenizer.
    jsonschema_rs.validate({**DRAWN, "properties": {**DRAWN["properties"], "text": TEXT}}, arguments)
    assert 0 < len(arguments["text"]) <= 5
