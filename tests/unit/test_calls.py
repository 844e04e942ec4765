"""Tool calls out of an answer, whatever the pieces in which it comes."""

from __future__ import annotations

import json
import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from semshare_agents.tools import FORMATS, ToolFormat, format_of
from semshare_agents.tools.calls import CallStream
from semshare_agents.tools.hermes import Hermes
from semshare_agents.tools.llama3 import Llama3
from semshare_agents.tools.mistral import Mistral, MistralList
from semshare_agents.tools.xml import XmlLike
from semshare_agents.values import ToolCall

Read = tuple[str, list[tuple[str, str]]]


def read(form: ToolFormat, pieces: list[str]) -> Read:
    """Text and calls of an answer; what was streamed has to add up to what is told at the end."""
    stream = CallStream(form)
    text, streamed = "", dict[int, list[str]]()
    for piece in pieces:
        out, parts = stream.push(piece)
        text += out
        for part in parts:
            if part.name:
                assert part.id
                assert part.index == len(streamed)
                streamed[part.index] = [part.id, part.name, ""]
            streamed[part.index][2] += part.arguments
    text += stream.finish()
    assert [tuple(call) for call in streamed.values()] == [(c.id, c.name, c.arguments) for c in stream.calls]
    assert all(re.fullmatch(r"[0-9a-f]{9}", call.id) for call in stream.calls)
    return text, [(call.name, call.arguments) for call in stream.calls]


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(max_size=8)
    | st.sampled_from(['"}', "</tool_call>", "[{", "\\"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
arguments = st.dictionaries(st.text(max_size=6) | st.sampled_from(["name", "arguments"]), values, max_size=3)


@given(
    kind=st.sampled_from([kind for kind in FORMATS if kind is not XmlLike]),
    calls=st.lists(st.tuples(st.sampled_from(["f", "get_weather", "a.b-c"]), arguments), min_size=1, max_size=3),
    cuts=st.lists(st.integers(0, 400), max_size=40),
)
def test_what_a_model_writes_is_read_again(
    kind: type[ToolFormat], calls: list[tuple[str, dict[str, object]]], cuts: list[int]
) -> None:
    form = kind()
    texts = [(name, json.dumps(given, ensure_ascii=False)) for name, given in calls]
    written = form.written([ToolCall("", name, text) for name, text in texts])
    edges = [0, *sorted(min(c, len(written)) for c in cuts), len(written)]
    pieces = [written[a:b] for a, b in pairwise(edges)]
    assert read(form, pieces) == ("", texts)


@pytest.mark.parametrize(
    ("form", "answer", "text", "calls"),
    [
        (Hermes(), 'I look.\n<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>', "I look.\n", [("f", "{}")]),
        (Hermes(), '<tool_call>{"arguments":{"a":[1]},"name":"f"}</tool_call>', "", [("f", '{"a":[1]}')]),
        (Hermes(), '<tool_call>\n{"name": "f"}\n</tool_call>', "", [("f", "{}")]),
        (Hermes(), '<tool_call>{"name": "f", "parameters": {"a": 1}}</tool_call>Done.', "Done.", [("f", '{"a": 1}')]),
        (Hermes(), '<tool_call>{"name": "f", "arguments": {"a": "x', "", [("f", '{"a": "x')]),
        (Hermes(), '<tool_call>{"nam', '<tool_call>{"nam', []),
        (Hermes(), "<tool_call>\nnothing", "<tool_call>\nnothing", []),
        (Hermes(), '<tool_call>{"a": 1} and', '<tool_call>{"a": 1} and', []),
        (Hermes(), '<tool_call>{"name": 3} and', '<tool_call>{"name": 3} and', []),
        (Hermes(), "<tool_call>{f()} and", "<tool_call>{f()} and", []),
        (Hermes(), "1 < 2, <tool>, <tool_cal", "1 < 2, <tool>, <tool_cal", []),
        (Hermes(), '{"name": "f", "arguments": {}}', '{"name": "f", "arguments": {}}', []),
        (Llama3(), ' {"name": "f", "parameters": {"a": 1}}', "", [("f", '{"a": 1}')]),
        (Llama3(), '{"name": "f", "parameters": {}}; {"name": "g", "parameters": {}}', "", [("f", "{}"), ("g", "{}")]),
        (Llama3(), 'See: {"name": "f", "parameters": {}}', 'See: {"name": "f", "parameters": {}}', []),
        (Llama3(), '{"answer": 4}', '{"answer": 4}', []),
        (Llama3(), " \n", " \n", []),
        (MistralList(), '[TOOL_CALLS][{"name":"f","arguments":{"a":1}}]', "", [("f", '{"a":1}')]),
        (MistralList(), '[TOOL_CALLS] {"name":"f","arguments":{}}', "", [("f", "{}")]),
        (MistralList(), "[TOOL_CALLS] f", "[TOOL_CALLS] f", []),
        (Mistral(), 'Yes.[TOOL_CALLS]f[ARGS]{"a": {}}[TOOL_CALLS]g[CALL_ID]abcdefghi[ARGS]{}', "Yes.",
         [("f", '{"a": {}}'), ("g", "{}")]),
        (Mistral(), "[TOOL_CALLS]f and", "[TOOL_CALLS]f and", []),
        (Mistral(), '[TOOL_CALLS]f[ARGS]{"a": 1} Done.', "Done.", [("f", '{"a": 1}')]),
    ],
)  # fmt: skip
def test_text_and_calls(form: ToolFormat, answer: str, text: str, calls: list[tuple[str, str]]) -> None:
    assert read(form, [answer]) == (text, calls)
    assert read(form, list(answer)) == (text, calls)


def test_text_flows_and_only_a_possible_opening_is_held_back() -> None:
    stream = CallStream(Hermes())
    assert [stream.push(piece)[0] for piece in ("so ", "<", "b", " <tool", "_x")] == ["so ", "", "<b", " ", "<tool_x"]


def test_arguments_flow_while_they_are_written() -> None:
    stream = CallStream(Hermes())
    stream.push('<tool_call>{"name": "f", "arguments": {"a": "')
    assert stream.push("one ")[1][0].arguments == "one "
    assert stream.push("two")[1][0].arguments == "two"


@pytest.mark.parametrize(
    ("template", "kind"),
    [
        ("{% if tools %}<tools>{{ tools }}</tools> reply in <tool_call></tool_call>{% endif %}", Hermes),
        ("<tool_call>\n<function={{ name }}>\n<parameter={{ key }}>{{ value }}</parameter></function>", XmlLike),
        ("{{ '[AVAILABLE_TOOLS]' }}[TOOL_CALLS] [", MistralList),
        ("[TOOL_CALLS]{{ name }}[ARGS]{{ arguments }}", Mistral),
        ("""{{- '{"name": "' + tool_call.name + '", ' }}{{- '"parameters": ' }}""", Llama3),
        ("{{ m.content }}", Hermes),
    ],
)
def test_the_template_tells_how_calls_are_written(template: str, kind: type[ToolFormat]) -> None:
    assert type(format_of(template)) is kind
