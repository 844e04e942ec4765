"""Answers drawn at random under a constraint keep to it; judged by another library's validator."""

from __future__ import annotations

import copy
import json
from functools import partial
from typing import Any

import jsonschema_rs
import numpy as np
import pytest
import torch

from semshare_agents.constrain.constraint import Constrainer, Constraint
from semshare_agents.constrain.grammar import answer_grammar, call_grammar
from semshare_agents.constrain.watching import UntilCalled
from semshare_agents.errors import InvalidSchemaError
from semshare_agents.model.generate import Sampler
from semshare_agents.model.text import TextStream
from semshare_agents.tools import FORMATS, ToolFormat
from semshare_agents.tools.calls import CallStream
from semshare_agents.tools.drafts import TAGS, FreeText
from semshare_agents.tools.hermes import Hermes
from semshare_agents.tools.xml import XmlLike
from semshare_agents.values import Sampling
from tests import tiny

MADE = Constrainer(tiny.tokenizer(), {2})
PADDED = 320
"""A vocabulary wider than the tokenizer's."""
ORDER = {
    "type": "object",
    "properties": {
        "size": {"enum": ["small", "große"]},
        "count": {"type": "integer", "minimum": 1, "maximum": 99},
        "notes": {"type": "array", "items": {"type": "string", "maxLength": 4}, "maxItems": 2},
        "where": {"$ref": "#/$defs/place"},
        "paid": {"anyOf": [{"type": "boolean"}, {"type": "null"}]},
    },
    "required": ["size", "count", "where"],
    "$defs": {
        "place": {
            "type": "object",
            "properties": {"zip": {"type": "string", "pattern": "^[0-9]{5}$"}},
            "required": ["zip"],
        }
    },
}
TOOLS = [
    {"type": "function", "function": {"name": "order", "description": "", "parameters": ORDER}},
    {
        "type": "function",
        "function": {"name": "stop", "description": "", "parameters": {"type": "object", "properties": {}}},
    },
]

PARAMETERS: dict[str, Any] = {t["function"]["name"]: t["function"]["parameters"] for t in TOOLS}  # type: ignore[index]


def drawn(grammar: str, seed: int, most: int = 400) -> str | None:
    """A random answer, or None where it did not end in time."""
    sampler = Sampler(
        Sampling(temperature=1.0, seed=seed), np.asarray([1]), torch.device("cpu"), MADE.constraint(grammar)
    )
    generator = torch.Generator().manual_seed(seed)
    tokens: list[int] = []
    while not sampler.complete:
        if len(tokens) == most:
            return None
        token = sampler.next(torch.randn(PADDED, generator=generator))
        if token == 2:
            break
        tokens.append(token)
    return str(tiny.tokenizer().decode(tokens, skip_special_tokens=False))


def until_called(form: ToolFormat, tokenizer: Any = None) -> UntilCalled:
    tokenizer = tokenizer or tiny.tokenizer()
    made = Constrainer(tokenizer, {2})
    grammars = [call_grammar(TOOLS, False, form, {}, loose) for loose in (False, True)]
    text, free = TextStream(tokenizer), FreeText(form, TAGS)
    return UntilCalled(
        text, free, [partial(made.constraint, g) for g in grammars], partial(tokenizer.encode, add_special_tokens=False)
    )


def go_on(constraint: Constraint, text: str) -> bool:
    """Go on by a text, token by token; whether all of it was allowed."""
    for token in tiny.tokenizer().encode(text, add_special_tokens=False):
        if not torch.isfinite(constraint.narrow(torch.zeros(PADDED))[token]):
            return False
        constraint.accept(token)
    return True


def allowed(constraint: Constraint) -> str:
    """The tokens that may follow, as one text."""
    return str(tiny.tokenizer().decode(constraint.narrow(torch.zeros(PADDED)).isfinite().nonzero().flatten().tolist()))


def grammar(form: ToolFormat, schema: Any = None, tools: Any = (), choice: str = "auto", parallel: bool = False) -> str:
    return answer_grammar(schema, list(tools), choice, parallel, form, {})


@pytest.mark.parametrize("seed", range(25))
def test_random_answers_keep_to_a_schema(seed: int) -> None:
    text = drawn(grammar(FORMATS[0](), ORDER), seed)
    assert text is not None
    value = json.loads(text)
    jsonschema_rs.validate(ORDER, value)
    assert set(value) <= set(ORDER["properties"])  # type: ignore[arg-type]
    # In the spacing and the letters that chat templates write.
    assert json.dumps(value, ensure_ascii=False) == text


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("choice", ["required", "order", "stop"])
def test_random_calls_keep_to_their_tools_schema(kind: type[ToolFormat], choice: str) -> None:
    named: set[str] = set()
    for seed in range(12):
        text = drawn(grammar(kind(), tools=TOOLS, choice=choice), seed)
        assert text is not None
        stream = CallStream(kind(), PARAMETERS)
        assert stream.push(text)[0] == stream.finish() == ""
        [call] = stream.calls
        jsonschema_rs.validate(PARAMETERS[call.name], json.loads(call.arguments))
        named.add(call.name)
    assert named == ({"order", "stop"} if choice == "required" else {choice})


@pytest.mark.parametrize("kind", FORMATS)
def test_several_calls_only_where_they_are_allowed(kind: type[ToolFormat]) -> None:
    form, stop = kind(), [TOOLS[1]]
    counts = set()
    for seed in range(12):
        text = drawn(grammar(form, tools=stop, choice="required", parallel=True), seed)
        stream = CallStream(form)
        stream.push(text or "")
        counts.add(len(stream.calls))
    assert max(counts) > 1


@pytest.mark.parametrize("kind", FORMATS)
def test_a_call_left_to_the_model_is_held_to_its_schema_once_it_begins(kind: type[ToolFormat]) -> None:
    form = kind()
    constraint = until_called(form)
    said = "" if form.only_at_start else "Well. "
    assert go_on(constraint, said + form.begin + form.before("stop"))
    assert allowed(constraint) == ("<" if kind is XmlLike else "{")
    rest = form.spelled("{}") + form.after + form.end
    assert go_on(constraint, rest)
    assert constraint.complete


@pytest.mark.parametrize(
    "answer",
    [
        '{"a": 1} <tool',
        "<think>I could <tool_call>\nnothing",
        "```\n<tool_call>\n{ }",
        "[THINK]<tool_call>",
        "`<tool_call>` begins a call",
    ],
)
def test_what_is_no_call_is_free(answer: str) -> None:
    constraint = until_called(Hermes())
    for token in tiny.tokenizer().encode(answer, add_special_tokens=False):
        constraint.accept(token)
        assert constraint.narrow(torch.zeros(PADDED)).isfinite().all()
    assert not constraint.complete


def test_a_token_that_goes_on_otherwise_begins_no_call() -> None:
    odd = copy.deepcopy(tiny.tokenizer())
    odd.add_tokens(["<tool_call>n"])
    constraint = until_called(Hermes(), odd)
    constraint.accept(odd.convert_tokens_to_ids("<tool_call>n"))
    assert constraint.narrow(torch.zeros(PADDED)).isfinite().all()


@pytest.mark.parametrize(
    "draft", ["<think><tool_call>x</think>", "```\n<tool_call>x\n```\n", "[THINK]<tool_call>[/THINK]"]
)
def test_the_call_after_a_draft_is_held(draft: str) -> None:
    constraint = until_called(Hermes())
    assert go_on(constraint, draft + '<tool_call>\n{"name": "stop", "arguments": ')
    assert allowed(constraint) == "{"


def test_a_call_with_other_space_than_the_templates_is_held_too() -> None:
    tight = copy.deepcopy(tiny.tokenizer())
    tight.add_tokens(["<tool_call>{"])
    constraint = until_called(Hermes(), tight)
    constraint.accept(tight.convert_tokens_to_ids("<tool_call>{"))
    assert allowed(constraint) == '"'


def test_an_answer_or_a_call_where_both_are_wanted() -> None:
    form = FORMATS[0]()
    texts = [drawn(grammar(form, {"enum": ["yes", "no"]}, TOOLS), seed) or "" for seed in range(20)]
    calls = [t for t in texts if t.startswith(form.begin)]
    assert 0 < len(calls) < len(texts)
    assert {t for t in texts if t not in calls} <= {'"yes"', '"no"'}


def test_special_tokens_are_drawn_as_tokens() -> None:
    special = {"[TOOL_CALLS]": 3}
    form = next(kind() for kind in FORMATS if kind.__name__ == "MistralList")
    constraint = MADE.constraint(answer_grammar(None, [TOOLS[1]], "required", False, form, special))
    assert constraint.narrow(torch.zeros(PADDED)).isfinite().nonzero().flatten().tolist() == [3]


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "objec"},
        {"type": 3},
        {"not": {"type": "string"}},
        {"type": "string", "pattern": "(["},
        {"$ref": "#/$defs/none"},
        {"properties": 3},
        {"enum": []},
    ],
)
def test_schemas_that_cannot_be_kept_to_are_refused(schema: dict[str, Any]) -> None:
    with pytest.raises(InvalidSchemaError, match="cannot be used"):
        MADE.constraint(grammar(FORMATS[0](), schema))


def test_tools_may_ask_for_more_than_can_be_held() -> None:
    tool = {
        "name": "f",
        "description": "",
        "parameters": {"type": "object", "properties": {}, "not": {"type": "string"}},
    }
    text = drawn(grammar(Hermes(), tools=[{"type": "function", "function": tool}], choice="f"), 1)
    assert text is not None
    assert '"arguments": {}' in text


def test_grammars_are_compiled_once_and_answers_do_not_share_state() -> None:
    made = Constrainer(tiny.tokenizer(), {2})
    source = grammar(FORMATS[0](), {"enum": ["ab", "cd"]})
    first = made.constraint(source)
    for token in tiny.tokenizer().encode('"a', add_special_tokens=False):
        first.accept(token)
    second = made.constraint(source)
    assert len(made._compiled) == 1
    allowed = second.narrow(torch.zeros(PADDED)).isfinite().nonzero().flatten().tolist()
    assert tiny.tokenizer().decode(allowed) == '"'
