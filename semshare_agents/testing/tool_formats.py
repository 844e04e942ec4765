"""What every way of writing tool calls must do."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import pytest

from semshare_agents.constrain.grammar import answer_grammar
from semshare_agents.tools.base import ToolFormat
from semshare_agents.tools.calls import CallStream
from semshare_agents.values import ToolCall

PARAMETERS: dict[str, Any] = {
    "type": "object",
    "properties": {
        "text": {"type": "string"},
        "count": {"type": "integer"},
        "share": {"type": "number"},
        "sure": {"type": "boolean"},
        "tags": {"type": "array", "items": {"type": "string"}},
        "where": {"type": "object", "properties": {"place": {"type": "string"}}},
    },
}
NAMES = ("find", "get_weather", "a.b-c")
TOOLS: list[dict[str, Any]] = [
    {"type": "function", "function": {"name": name, "description": "", "parameters": PARAMETERS}} for name in NAMES
]
ARGUMENTS: tuple[dict[str, Any], ...] = (
    {},
    {"text": "two words"},
    {"count": -3, "share": 0.5, "sure": True},
    {"tags": ["a", "b, c"], "where": {"place": "Ulm"}},
    {"text": 'quotes " and \\ and {braces} and [brackets], 1: 2; 3'},
    {"text": "lines\nand\ttabs, und Umlaute: äöü, 東京, 🙂"},
    {"text": "", "tags": [], "where": {}},
)

Read = tuple[str, list[tuple[str, Any]]]


def stream_of(form: ToolFormat) -> CallStream:
    """What reads an answer of a model that knows `TOOLS`."""
    return CallStream(form, dict.fromkeys(NAMES, PARAMETERS))


def read(form: ToolFormat, pieces: Iterable[str]) -> Read:
    """Text and calls of an answer; what is streamed of a call adds up to what is told at the end."""
    stream, text = stream_of(form), ""
    streamed: dict[int, list[str]] = {}
    for piece in pieces:
        out, parts = stream.push(piece)
        text += out
        for part in parts:
            if part.name:
                streamed[part.index] = [part.name, ""]
            streamed[part.index][1] += part.arguments
    text += stream.finish()
    assert [tuple(call) for call in streamed.values()] == [(call.name, call.arguments) for call in stream.calls]
    return text, [(call.name, json.loads(call.arguments)) for call in stream.calls]


def cuts(text: str) -> Iterable[list[str]]:
    """A text in one piece, letter by letter, by threes, and in two at every place."""
    yield [text]
    yield list(text)
    yield [text[at : at + 3] for at in range(0, len(text), 3)]
    for at in range(1, len(text)):
        yield [text[:at], text[at:]]


def calls_of(*given: tuple[str, dict[str, Any]]) -> list[ToolCall]:
    """Calls as an answer holds them."""
    return [ToolCall("", name, json.dumps(arguments, ensure_ascii=False)) for name, arguments in given]


class ToolFormatConformance:
    """Tests of the `ToolFormat` contract. Derive from it and give the fixtures `form` and `template`.

    `template` is a chat template of a model that writes calls so, or what of it shows that.
    """

    def test_is_known_by_the_template(self, form: ToolFormat, template: str) -> None:
        """And by nothing else: a template without tools belongs to no format."""
        assert form.fits(template)
        assert not form.fits("")
        assert not form.fits("{% for m in messages %}{{ m.role }}: {{ m.content }}{% endfor %}")

    def test_marks_agree_with_one_another(self, form: ToolFormat) -> None:
        """`begin` starts with the trigger, and behind it a call starts with `opening`, where it has one."""
        assert form.begin.startswith(form.trigger)
        assert form.before("find").startswith(form.opening)
        assert "find" in form.before("find")
        assert form.trigger or form.only_at_start, "without a trigger only an answer's start can be a call"
        assert form.opening or form.trigger, "text could not be told from a call"

    @pytest.mark.parametrize("arguments", ARGUMENTS, ids=range(len(ARGUMENTS)))
    def test_what_is_written_is_read_again_in_any_pieces(self, form: ToolFormat, arguments: dict[str, Any]) -> None:
        """The same calls, no text, wherever the answer was cut while it came."""
        for name in NAMES:
            written = form.written(calls_of((name, arguments)))
            for pieces in cuts(written):
                assert read(form, pieces) == ("", [(name, arguments)]), pieces

    def test_several_calls_keep_their_order(self, form: ToolFormat) -> None:
        """Also where one tool is called twice, or one has no arguments."""
        given = [(NAMES[i % 3], arguments) for i, arguments in enumerate(ARGUMENTS)]
        written = form.written(calls_of(*given, given[0]))
        for pieces in ([written], list(written), [written[at : at + 7] for at in range(0, len(written), 7)]):
            assert read(form, pieces) == ("", [*given, given[0]])

    def test_marks_inside_an_argument_are_text(self, form: ToolFormat) -> None:
        """A tool may be asked to look for the very words that begin, part or end calls."""
        for mark in {form.trigger, form.begin, form.separator, form.end, form.after, form.opening, *form.marks}:
            arguments = {"text": f"say {mark} twice: {mark}"}
            written = form.written(calls_of(("find", arguments), ("find", {})))
            for pieces in ([written], list(written)):
                assert read(form, pieces) == ("", [("find", arguments), ("find", {})]), mark

    def test_text_before_calls_stays_text(self, form: ToolFormat) -> None:
        """Where a call may come late at all; elsewhere all of it is text."""
        said = "I look that up. "
        written = said + form.written(calls_of(("find", {"text": "x"})))
        expected: Read = (written, []) if form.only_at_start else (said, [("find", {"text": "x"})])
        for pieces in cuts(written):
            assert read(form, pieces) == expected

    def test_text_without_calls_comes_out_as_it_went_in(self, form: ToolFormat) -> None:
        """Also where it looks like the beginning of a call until the last letter."""
        said = "If a < b, then [1, 2] is {x}: <b>fine</b>; done.\n\n  Next line "
        begun = [f"Well {form.trigger[:at]}" for at in range(1, len(form.trigger))]
        for text in (said, "", " ", "Yes", *begun):
            for pieces in ([text], list(text)):
                assert read(form, pieces) == (text, [])

    def test_text_is_not_held_back_for_longer_than_it_may_be_a_call(self, form: ToolFormat) -> None:
        """A reader sees words as they come."""
        stream = stream_of(form)
        shown = "".join(stream.push(piece)[0] for piece in ("Now ", "this ", "is ", "text. "))
        assert shown.rstrip() == "Now this is text."

    def test_arguments_flow_while_they_are_written(self, form: ToolFormat) -> None:
        """A long argument is streamed: half of it is out when half of it was written."""
        arguments = {"text": "word " * 200}
        written = form.written(calls_of(("find", arguments)))
        stream = stream_of(form)
        parts = [part for letter in written[: len(written) // 2] for part in stream.push(letter)[1]]
        assert parts[0].name == "find"
        assert parts[0].id
        assert len("".join(part.arguments for part in parts)) > len(written) // 3

    def test_an_answer_may_be_cut_off_anywhere(self, form: ToolFormat) -> None:
        """Names are whole or missing, arguments are the beginning of what would have come, and nothing raises."""
        given = calls_of(("get_weather", ARGUMENTS[3]), ("find", ARGUMENTS[4]))
        written = form.written(given)
        for at in range(len(written)):
            stream = stream_of(form)
            stream.push(written[:at])
            for found, whole in zip(stream.calls, given, strict=False):
                assert found.name == whole.name
                assert whole.arguments.startswith(found.arguments)
            stream.finish()
            assert len(stream.calls) <= 2

    @pytest.mark.parametrize("choice", ["required", "a.b-c"])
    def test_constrained_decoding_allows_what_is_written(self, form: ToolFormat, choice: str) -> None:
        """The grammar is made of the same marks: forced calls are exactly those that are read."""
        from llguidance import LLMatcher, LLTokenizer

        tokenizer = LLTokenizer("byte")
        grammar = answer_grammar(None, TOOLS, choice, True, form, {})
        for arguments in ARGUMENTS[:4]:
            written = form.written(calls_of(("a.b-c", arguments)))
            matcher = LLMatcher(tokenizer, grammar, log_level=0)
            assert not matcher.is_error(), matcher.get_error()
            ids = tokenizer.tokenize_str(written)
            assert matcher.try_consume_tokens(ids) == len(ids), written
            assert matcher.is_accepting()
            wrong = tokenizer.tokenize_str(written.replace("a.b-c", "sell"))
            assert LLMatcher(tokenizer, grammar, log_level=0).try_consume_tokens(wrong) < len(wrong)
