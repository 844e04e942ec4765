"""Thoughts come apart from what is said, however an answer is cut into pieces."""

from __future__ import annotations

import pytest

from semshare_agents.tools.calls import CallStream
from semshare_agents.tools.drafts import TAGS
from semshare_agents.tools.hermes import Hermes
from semshare_agents.tools.thoughts import AnswerParts

CALL = '<tool_call>\n{"name": "f", "arguments": {"a": "</think>"}}\n</tool_call>'
CODE = "say `</think>` and\n```\n</think>\n```\n"
CASES: list[tuple[str, str, str, str]] = [
    # answer, mark that closes what the prompt opened, thoughts, text
    ("two and two</think>Four.", "</think>", "two and two", "Four."),
    ("<think>\nhm\n\nso\n</think>\n\nFour.", "", "hm\n\nso", "Four."),
    ("<think>hm</think>\n<think>well</think>Four.", "", "hm\n\nwell", "Four."),
    ("[THINK]hm[/THINK]Four.", "", "hm", "Four."),
    ("\n\n</think>\n\nFour.", "</think>", "", "Four."),
    ("<think>\nhm</think>Four.", "</think>", "hm", "Four."),
    ("still thinking", "</think>", "still thinking", ""),
    ("still <thi", "</think>", "still <thi", ""),
    ("", "</think>", "", ""),
    ("  Four.", "", "", "  Four."),
    ("Four.</think> Five.", "", "", "Four. Five."),
    ("The tag <think>a</think> is a tag.", "", "", "The tag <think>a</think> is a tag."),
    (CODE, "", "", CODE),
    ("a < b", "", "", "a < b"),
    ("<thi", "", "", "<thi"),
]


def parted(text: str, closing: str, size: int, calls: CallStream | None = None) -> tuple[str, str, AnswerParts]:
    parts = AnswerParts(calls, TAGS, closing)
    pieces = [parts.piece(text[at : at + size]) for at in range(0, len(text), size)] + [parts.last()]
    assert "".join(piece.thoughts for piece in pieces) == parts.thoughts
    return parts.thoughts, "".join(piece.text for piece in pieces), parts


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize(("answer", "closing", "thoughts", "text"), CASES)
def test_thoughts_and_text(answer: str, closing: str, thoughts: str, text: str, size: int) -> None:
    assert parted(answer, closing, size)[:2] == (thoughts, text)


@pytest.mark.parametrize("size", [1, 5, 1000])
def test_a_mark_in_a_call_is_text(size: int) -> None:
    answer = f"I could look.</think>\n\n{CALL}"
    thoughts, text, parts = parted(answer, "</think>", size, CallStream(Hermes(), thoughts=TAGS))
    assert (thoughts, text) == ("I could look.", "")
    assert [(call.name, call.arguments) for call in parts.calls] == [("f", '{"a": "</think>"}')]


def test_without_marks_nothing_changes() -> None:
    parts = AnswerParts()
    assert [parts.piece("<think>a"), parts.piece("</think>b")][1].text == "</think>b"
    assert (parts.last().text, parts.thoughts, parts.calls) == ("", "", ())
