"""Rendering by a tokenizer's chat template, and probes: messages with words of their own, looked for in the outcome."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, wraps
from typing import Any, ParamSpec, TypeVar

from jinja2 import TemplateError as JinjaError

from semshare_agents.errors import TemplateError
from semshare_agents.messages.cleaning import Chat
from semshare_agents.tools.checking import Tools

REFUSALS = (JinjaError, TypeError, KeyError, ValueError, AttributeError, IndexError, RecursionError)
"""What templates raise: on purpose, or because they walk what is not there."""

WORDS = ("semshare_word", "semshare_another", "semshare_third")
WORD, ANOTHER, THIRD = WORDS
NOBODY = "semshare_nobody"
"""A role that no template knows."""
TOOL = "semshare_tool"
PROBE_TOOL: dict[str, Any] = {
    "type": "function",
    "function": {"name": TOOL, "description": "", "parameters": {"type": "object", "properties": {}}},
}

T = TypeVar("T")
P = ParamSpec("P")


def once(probe: Callable[P, T]) -> Callable[P, T]:
    """A probe of a template that is made once for each of its arguments."""

    @wraps(probe)
    def found(*args: P.args, **kwargs: P.kwargs) -> T:
        known: dict[tuple[object, ...], Any] = args[0]._found  # type: ignore[attr-defined]
        key = (probe, *args[1:], *kwargs.values())
        if key not in known:
            known[key] = probe(*args, **kwargs)
        answer: T = known[key]
        return answer

    return found


def user(text: str = "?") -> dict[str, Any]:
    """A user's message."""
    return {"role": "user", "content": text}


def assistant(text: str = "!") -> dict[str, Any]:
    """An answer."""
    return {"role": "assistant", "content": text}


class Probing:
    """A tokenizer's chat template, to be rendered and asked.

    Args:
        tokenizer: A transformers tokenizer.
    """

    def __init__(self, tokenizer: Any):
        self._tokenizer = tokenizer
        self._found: dict[tuple[object, ...], Any] = {}

    def render(
        self,
        messages: Chat,
        tools: Tools | None = None,
        answer: bool = True,
        variables: Mapping[str, Any] | None = None,
    ) -> str:
        """The prompt's text.

        Args:
            messages: Messages in a form that the template can say.
            tools: Tools, for templates that render them.
            answer: Whether the prompt ends where an answer begins.
            variables: What else the template is told.

        Raises:
            TemplateError: there is no template.
            Exception: one of `REFUSALS`.
        """
        if self._tokenizer.chat_template is None:
            raise TemplateError("the tokenizer has no chat template: use a model made for chat")
        told = [_in_parts(m) for m in messages] if self._wants_parts else messages
        return self._applied(told, tools, answer, variables)

    def _applied(self, messages: Chat, tools: Tools | None, answer: bool, variables: Mapping[str, Any] | None) -> str:
        made = self._tokenizer.apply_chat_template(
            messages, tools=tools, tokenize=False, add_generation_prompt=answer, **(variables or {})
        )
        return str(made)

    @cached_property
    def _wants_parts(self) -> bool:
        """Whether text is rendered only where it stands in a list of parts, as templates for pictures have it."""
        asked = [user(WORD)]
        for messages, wanted in ((asked, False), ([_in_parts(m) for m in asked], True)):
            try:
                if WORD in self._applied(messages, None, False, None):
                    return wanted
            except REFUSALS:
                continue
        return False

    def probed(
        self,
        messages: Chat,
        tools: Tools | None = None,
        answer: bool = False,
        variables: Mapping[str, Any] | None = None,
    ) -> str:
        """The text, empty where the template refuses."""
        try:
            return self.render(messages, tools, answer, variables)
        except REFUSALS:
            return ""

    def says(self, messages: Chat, tools: Tools | None = None) -> bool:
        """Whether the messages' words are rendered, in their order."""
        return bool(_places(self.probed(messages, tools), messages))

    def keeps(self, messages: Chat, more: Chat, tools: Tools | None = None) -> bool:
        """Whether messages are rendered, and up to their last word alike where more follow."""
        before, after = self.probed(messages, tools), self.probed([*messages, *more], tools)
        end = _places(before, messages)
        return bool(end and _places(after, [*messages, *more])) and before[:end] == after[:end]


def _places(text: str, messages: Sequence[Mapping[str, Any]]) -> int:
    """Where the last of the messages' words ends; 0 where one is missing or before its time."""
    at = 0
    for message in messages:
        if message["content"] in WORDS:
            found = text.find(message["content"], at)
            if found < 0:
                return 0
            at = found + len(message["content"])
    return at


def _in_parts(message: Mapping[str, Any]) -> dict[str, Any]:
    return {**message, "content": [{"type": "text", "text": message["content"]}]}
