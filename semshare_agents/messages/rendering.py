"""From messages that the template can say to the prompt's text: what was said stays said, and nothing is dropped.

A template of a thinking model renders a round of calls otherwise once the user has spoken again: without its thoughts.
Then all KV behind it would be another text's. So such a conversation is rendered piece by piece, each up to the end of
a round, as it was when the round was under way.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from semshare_agents.errors import TemplateError
from semshare_agents.messages.cleaning import RESULTS, THOUGHT_FIELDS, Chat
from semshare_agents.messages.order import Told
from semshare_agents.messages.probing import REFUSALS
from semshare_agents.messages.rounds import Message
from semshare_agents.messages.template import ASKED, Template, refusing
from semshare_agents.tools.checking import Tools

END = "\U0010fffc"
"""Stands behind the text that an answer continues."""


class Rendering:
    """Renders conversations.

    Args:
        template: The template.
    """

    def __init__(self, template: Template):
        self._template = template

    def text(self, told: Told, tools: Tools | None, variables: Mapping[str, Any]) -> str:
        """The prompt's text, up to where the answer begins.

        Raises:
            TemplateError: the template refuses a message, or drops it.
        """
        messages = [message for _, message in told]
        try:
            text = self._with_tools(messages, tools, variables)
        except REFUSALS as e:
            at = told[self._refused(messages, tools, variables)][0]
            raise TemplateError(f"message {at}: the model's chat template refuses it: {e}") from e
        lost = self._lost(text, messages)
        if lost is not None:
            raise TemplateError(f"message {told[lost][0]}: the model's chat template does not say it")
        return text

    # --- tools

    def _with_tools(self, messages: Chat, tools: Tools | None, variables: Mapping[str, Any]) -> str:
        """The text with its tools, at the start also where the template has them before the user's last message."""
        if not tools or self._template.keeps_tools:
            return self._continued(messages, tools, variables)
        text = self._continued(messages, None, variables)
        bare, given = (self._template.render([ASKED], t, False, variables) for t in (None, tools))
        start = _common(bare, given)
        end = _common(bare[start:][::-1], given[start:][::-1])
        return text[:start] + given[start : len(given) - end] + text[start:]

    # --- the last message

    def _continued(self, messages: Chat, tools: Tools | None, variables: Mapping[str, Any]) -> str:
        """The text; where an answer was begun, it ends with that."""
        if not begun(messages[-1]):
            return self._in_pieces(messages, tools, True, variables)
        last = {**messages[-1], "content": messages[-1]["content"] + END}
        text, mark, _ = self._in_pieces([*messages[:-1], last], tools, False, variables).rpartition(END)
        if not mark:
            raise ValueError("it cannot be continued")
        return text

    # --- rounds

    def _in_pieces(self, messages: Chat, tools: Tools | None, answer: bool, variables: Mapping[str, Any]) -> str:
        """The text, every round of calls as it was rendered while it was under way."""
        ends = self._round_ends(messages)
        whole = self._template.render
        if not ends:
            return whole(messages, tools, answer, variables)
        before = whole([ASKED], tools, False, variables)
        texts = [whole(messages[: ends[0]], tools, False, variables)]
        for start, end in zip(ends, [*ends[1:], None], strict=True):
            piece = whole([ASKED, *messages[start:end]], tools, answer and end is None, variables)
            if not piece.startswith(before):
                return whole(messages, tools, answer, variables)
            texts.append(piece[len(before) :])
        return "".join(texts)

    def _round_ends(self, messages: Chat) -> list[int]:
        """Behind which messages a piece ends: the last result of each of the user's turns but the last."""
        calls = [m for m in messages if "tool_calls" in m]
        thoughts = any(m.get(field) for m in calls for field in THOUGHT_FIELDS)
        if not calls or not (self._template.forgets(False) or (thoughts and self._template.forgets(True))):
            return []
        ends, end = [], 0
        for at, message in enumerate(messages):
            if message["role"] in RESULTS:
                end = at + 1
            elif message["role"] == "user" and end:
                ends.append(end)
                end = 0
        return ends

    # --- what is refused or dropped

    def _refused(self, messages: Chat, tools: Tools | None, variables: Mapping[str, Any]) -> int:
        """Which message the template refuses."""

        def render(count: int) -> None:
            try:
                self._template.render(messages[:count], tools, True, variables)
            except REFUSALS:
                # A beginning may be refused only because no user speaks at its end.
                self._template.render([*messages[:count], ASKED], tools, True, variables)

        return refusing(render, len(messages))

    def _lost(self, text: str, messages: Sequence[Message]) -> int | None:
        """The first message that is not in the text, behind those before it; None where all are."""
        at = 0
        for index, message in enumerate(messages):
            found = self._found(text, message, at)
            if found < 0:
                return index
            at = found
        return None

    def _found(self, text: str, message: Message, start: int) -> int:
        """Where a message's words end; -1 where one is missing."""
        at = start
        for call in message.get("tool_calls", ()):
            name = call["function"]["name"]
            found = text.find(name, start)
            if found < 0:
                return -1
            at = max(at, found + len(name))
        content = message["content"].strip()
        found = text.find(content, start)
        if found >= 0:
            return max(at, found + len(content))
        for said in self._other_forms(content):
            found = text.find(said, start)
            if found >= 0:
                return max(at, found + len(said))
        spaced = re.compile(r"\s+".join(map(re.escape, content.split()))).search(text, start)
        return max(at, spaced.end()) if spaced else -1

    def _other_forms(self, content: str) -> list[str]:
        """How a template may write a text otherwise, but for space: as JSON, without a thought that it begins with."""
        written = [json.dumps(content, ensure_ascii=ascii_only)[1:-1] for ascii_only in (False, True)]
        closings = [closing for _, closing in self._template.thoughts if closing in content]
        return [*written, *(content.rpartition(closing)[2].strip() for closing in closings)]


def begun(message: Message) -> bool:
    """Whether a last message is an answer that has begun, and is to be continued."""
    return message["role"] == "assistant" and "tool_calls" not in message and bool(message["content"])


def _common(one: str, other: str) -> int:
    """Length of the beginning that two texts share."""
    return next((k for k, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
