"""Calls that a model only drafts are text: in thoughts, in code blocks, in quotes; the call after them is the call."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from semshare_agents.tools import ToolFormat
from semshare_agents.tools.calls import CallStream
from semshare_agents.tools.hermes import Hermes
from semshare_agents.tools.llama3 import Llama3
from semshare_agents.tools.mistral import Mistral
from semshare_agents.tools.xml import XmlLike
from semshare_agents.values import ToolCall

DRAFT = [ToolCall("", "delete", "{}")]
REAL = [ToolCall("", "list", "{}")]
FORMS: list[ToolFormat] = [Hermes(), Mistral(), XmlLike()]
AROUND = [
    "<think>I could {} but no.</think>",
    "[THINK]{}[/THINK]",
    "```\n{}\n```\n",
    "So:\n  ```json\n{}\n```\n",
    "~~~~\n{}\n```\n~~~~\n",
    "````\n```\n{}\n```\n````\n",
    "<think>\n```\n{}</think>",
]


def read(stream: CallStream, pieces: list[str]) -> tuple[str, list[str]]:
    text = "".join(stream.push(piece)[0] for piece in pieces) + stream.finish()
    return text, [call.name for call in stream.calls]


@pytest.mark.parametrize("form", FORMS, ids=lambda f: type(f).__name__)
@pytest.mark.parametrize("around", AROUND)
@given(cuts=st.lists(st.integers(0, 200), max_size=30))
def test_a_draft_is_text_and_the_call_after_it_is_the_call(form: ToolFormat, around: str, cuts: list[int]) -> None:
    said = around.format(form.written(DRAFT))
    answer = said + form.written(REAL)
    edges = [0, *sorted(min(c, len(answer)) for c in cuts), len(answer)]
    assert read(CallStream(form), [answer[a:b] for a, b in pairwise(edges)]) == (said, ["list"])


@pytest.mark.parametrize(
    ("answer", "calls"),
    [
        ("<think>never closed <tool_call>", []),
        ("```\nnever closed\n<tool_call>", []),
        ("`<tool_call>` begins a call.", []),
        ("a ``` b <tool_call>\n{CALL}", ["list"]),
        ("</think><tool_call>\n{CALL}", ["list"]),
        ("1 < 2 ``` ~~~ [THIN", []),
        ("``", []),
    ],
)
def test_what_is_a_draft(answer: str, calls: list[str]) -> None:
    answer = answer.replace("{CALL}", '{"name": "list", "arguments": {}}')
    text, named = read(CallStream(Hermes()), list(answer))
    assert named == calls
    assert text == (answer if not calls else answer[: answer.index("<tool_call>")])


def test_an_answer_may_begin_inside_a_thought() -> None:
    draft, real = Hermes().written(DRAFT), Hermes().written(REAL)
    text, calls = read(CallStream(Hermes(), closing="</think>"), list(f"Hm. {draft}</think>\n\n{real}"))
    assert (text, calls) == (f"Hm. {draft}</think>\n\n", ["list"])


def test_a_thought_that_says_nothing_is_no_text() -> None:
    answer = list(f"\n</think>\n\n{Hermes().written(REAL)}")
    assert read(CallStream(Hermes(), closing="</think>"), answer) == ("", ["list"])
    assert read(CallStream(Hermes(), closing="</think>"), list("\n</think>\n\nFour.")) == ("Four.", [])


@pytest.mark.parametrize("closing", ["", "</think>"])
def test_whoever_must_call_at_once_may_think_first(closing: str) -> None:
    thought = ("" if closing else "<think>") + 'Is it {"name": "delete"}?</think>'
    assert read(CallStream(Llama3(), closing=closing), list(thought + Llama3().written(REAL))) == (thought, ["list"])


@pytest.mark.parametrize("form", FORMS, ids=lambda f: type(f).__name__)
def test_a_call_is_whole_only_when_it_is(form: ToolFormat) -> None:
    written = form.written([ToolCall("", "list", '{"a": "b"}')]).removesuffix(form.end)
    for size in range(len(written)):
        stream = CallStream(form)
        stream.push(written[:size])
        stream.finish()
        assert not any(call.whole for call in stream.calls)
    stream = CallStream(form)
    stream.push(written)
    assert [call.whole for call in stream.calls] == [True]
