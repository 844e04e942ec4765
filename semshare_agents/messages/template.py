"""What a chat template can say, seen from what it makes of probes: roles, tools, calls, results and thoughts.

Templates skip what they do not know without a word. So nothing is taken from a template's name or family: a message
with words of its own is rendered, and what is not found in the outcome the template cannot say.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import cached_property, wraps
from typing import Any, ParamSpec, TypeVar

from jinja2 import TemplateError as JinjaError

from semshare_agents.errors import TemplateError
from semshare_agents.messages.cleaning import THOUGHT_FIELDS, Chat
from semshare_agents.messages.rounds import SHAPES, Shape
from semshare_agents.tools import ToolFormat, format_of
from semshare_agents.tools.checking import Tools
from semshare_agents.tools.drafts import TAGS

REFUSALS = (JinjaError, TypeError, KeyError, ValueError, AttributeError, IndexError, RecursionError)
"""What templates raise: on purpose, or because they walk what is not there."""

WORD = "semshare_word"
ANOTHER = "semshare_another"
NOBODY = "semshare_nobody"
"""A role that no template knows."""
TOOL = "semshare_tool"
CALLED = ("semshare_first", "semshare_second")
KEY, VALUE = "semshare_key", "semshare_value"
FOUND = ("semshare_found", "semshare_seen")

PROBE_TOOL: dict[str, Any] = {
    "type": "function",
    "function": {"name": TOOL, "description": "", "parameters": {"type": "object", "properties": {}}},
}
ASKED = {"role": "user", "content": "?"}
IDS = ("abcdefghi", "bcdefghij")
"""Mistral's templates want ids of exactly nine letters and digits."""

TAG = r"<[^<>\s]+>|\[[^\[\]\s]+\]"


T = TypeVar("T")
P = ParamSpec("P")


def _once(probe: Callable[P, T]) -> Callable[P, T]:
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


def form_of(tokenizer: Any) -> ToolFormat:
    """How a model writes tool calls, by its tokenizer's chat template."""
    return format_of("" if tokenizer.chat_template is None else tokenizer.get_chat_template(tools=[PROBE_TOOL]))


class Template:
    """A tokenizer's chat template.

    Args:
        tokenizer: A transformers tokenizer.
        form: How the model writes calls.
    """

    def __init__(self, tokenizer: Any, form: ToolFormat):
        self._tokenizer = tokenizer
        self._form = form
        self._found: dict[tuple[object, ...], Any] = {}

    # --- rendering

    def render(self, messages: Chat, tools: Tools | None = None, answer: bool = True) -> str:
        """The prompt's text.

        Args:
            messages: Messages in a form that the template can say.
            tools: Tools, for templates that render them.
            answer: Whether the prompt ends where an answer begins.

        Raises:
            TemplateError: there is no template.
            Exception: one of `REFUSALS`.
        """
        if self._tokenizer.chat_template is None:
            raise TemplateError("the tokenizer has no chat template: use a model made for chat")
        return str(
            self._tokenizer.apply_chat_template(messages, tools=tools, tokenize=False, add_generation_prompt=answer)
        )

    def probed(self, messages: Chat, tools: Tools | None = None, answer: bool = False) -> str:
        """The text, empty where the template refuses."""
        try:
            return self.render(messages, tools, answer)
        except REFUSALS:
            return ""

    @cached_property
    def source(self) -> str:
        """The template itself, that for tools included where there are two."""
        if self._tokenizer.chat_template is None:
            return ""
        found = []
        for tools in (None, [PROBE_TOOL]):
            try:
                found.append(str(self._tokenizer.get_chat_template(tools=tools)))
            except ValueError:
                continue
        return "\n".join(dict.fromkeys(found))

    # --- roles

    @_once
    def takes_system(self, tools: bool = False) -> bool:
        """Whether a system message is rendered, in a prompt with tools or without."""
        return self._says([{"role": "system", "content": WORD}, ASKED], tools)

    @_once
    def takes_systems(self, tools: bool = False) -> bool:
        """Whether several system messages at the start are."""
        return self._says([{"role": "system", "content": WORD}, {"role": "system", "content": ANOTHER}, ASKED], tools)

    @_once
    def takes_later_system(self) -> bool:
        """Whether a system message after the first exchange is rendered."""
        return self._says([ASKED, {"role": "assistant", "content": "!"}, {"role": "system", "content": WORD}, ASKED])

    @_once
    def takes_runs(self) -> bool:
        """Whether the user may speak twice, one message after the other."""
        return self._says([{"role": "user", "content": WORD}, {"role": "user", "content": ANOTHER}])

    @_once
    def knows(self, role: str, tools: bool = False) -> bool:
        """Whether a role is rendered, and otherwise than any word in the role's place would be."""
        first, other = ([{"role": r, "content": WORD}, ASKED] for r in (role, NOBODY))
        alike = self.probed(first).replace(role, NOBODY) == self.probed(other).replace(role, NOBODY)
        return not alike and self._says(first, tools)

    def _says(self, messages: Chat, tools: bool = False) -> bool:
        """Whether the messages' words are rendered."""
        text = self.probed(messages, [PROBE_TOOL] if tools and self.shows_tools else None)
        return all(m["content"] in text for m in messages if m["content"] in (WORD, ANOTHER)) and bool(text)

    # --- tools

    @cached_property
    def shows_tools(self) -> bool:
        """Whether tools are rendered."""
        return TOOL in self.probed([ASKED], [PROBE_TOOL])

    @_once
    def shape_of(self, tools: bool, text: bool, several: bool) -> Shape:
        """How a message with calls and its results have to be brought for nothing of them to be lost.

        Args:
            tools: Whether the prompt has tools.
            text: Whether there is text beside the calls.
            several: Whether there are several calls.
        """
        given = [PROBE_TOOL] if tools and self.shows_tools else None
        count = 2 if several else 1
        wanted = [*([WORD] if text else []), *CALLED[:count], KEY, VALUE, *FOUND[:count]]
        for shape in SHAPES:
            made = shape.messages(*_probe_round(count, WORD if text else ""), self._form)
            said = self.probed([ASKED, *made], given)
            if all(word in said for word in wanted) and f"'{KEY}'" not in said and _in_order(said, count):
                return shape
        return SHAPES[-1]

    @cached_property
    def takes_broken(self) -> bool:
        """Whether arguments that are text are rendered, for those that are no object."""
        call, results = _probe_round(1, "")
        call["tool_calls"][0]["function"]["arguments"] = WORD
        shape = self.shape_of(False, False, False)
        return WORD in self.probed([ASKED, *shape.messages(call, results, self._form)])

    @cached_property
    def takes_any_id(self) -> bool:
        """Whether calls may have ids of any length."""
        call, results = _probe_round(1, "")
        call["tool_calls"][0]["id"] = results[0]["tool_call_id"] = f"call_{IDS[0]}_{IDS[1]}"
        shape = self.shape_of(False, False, False)
        return bool(self.probed([ASKED, *shape.messages(call, results, self._form)]))

    # --- thoughts

    @_once
    def thought_field(self, calls: bool) -> str:
        """The field whose thoughts are rendered, empty for none.

        Args:
            calls: Of a message with calls, else of an answer.
        """
        return next((field for field in THOUGHT_FIELDS if WORD in self._with_thought({field: WORD}, calls)), "")

    @cached_property
    def thoughts(self) -> tuple[tuple[str, str], ...]:
        """Marks between which the model thinks."""
        for calls in (True, False):
            field = self.thought_field(calls)
            said, plain = self._with_thought({field: WORD}, calls), self._with_thought({}, calls)
            found = re.search(rf"({TAG})\s*{WORD}\s*({TAG})", said) if field else None
            # A thought that is rendered without marks of its own stands between those of its message.
            if found and found[1] not in plain and found[2] not in plain and found.groups() not in TAGS:
                return ((found[1], found[2]), *TAGS)
        return TAGS

    def _with_thought(self, thought: dict[str, str], calls: bool) -> str:
        """What is made of a thought before a call, or in an answer."""
        if not calls:
            return self.probed([ASKED, {"role": "assistant", "content": "!", **thought}])
        call, results = _probe_round(1, "")
        made = self.shape_of(False, False, False).messages({**call, **thought}, results, self._form)
        return self.probed([ASKED, *made])

    @cached_property
    def around(self) -> str:
        """What the template writes around messages of others than the assistant."""
        call, results = _probe_round(1, "")
        made = self.shape_of(False, False, False).messages(call, results, self._form)
        after = self.probed([ASKED, *made]).rpartition(VALUE)[2]
        first: Chat = [{"role": "system", "content": "!"}] if self.takes_system() else []
        return after + self.probed([*first, ASKED])


def _probe_round(count: int, text: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A message with calls, and their results."""
    calls = [
        {"id": IDS[k], "type": "function", "function": {"name": CALLED[k], "arguments": {KEY: VALUE}}}
        for k in range(count)
    ]
    results: list[dict[str, Any]] = [
        {"role": "tool", "name": CALLED[k], "tool_call_id": IDS[k], "content": FOUND[k]} for k in range(count)
    ]
    return {"role": "assistant", "content": text, "tool_calls": calls}, results


def _in_order(text: str, count: int) -> bool:
    places = [text.find(word) for word in FOUND[:count]]
    return places == sorted(places)


def refusing(render: Callable[[int], object], count: int, reasons: Sequence[type[Exception]] = REFUSALS) -> int:
    """Which of `count` messages a template refuses: the last one that makes a beginning of the list fail.

    Args:
        render: Renders so many first messages.
        count: All of them, which fail.
        reasons: What a refusal raises.
    """

    def fails(size: int) -> bool:
        try:
            render(size)
        except tuple(reasons):
            return True
        return False

    low, high = 0, count
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if fails(middle) else (middle, high)
    return high - 1
