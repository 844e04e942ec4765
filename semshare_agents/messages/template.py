"""What a chat template can say, seen from what it makes of probes: roles, tools, calls, results and thoughts.

Templates skip what they do not know without a word. So nothing is taken from a template's name or family: a message
with words of its own is rendered, and what is not found in the outcome the template cannot say. A template that says
something only until more messages follow cannot say it either: what a prompt said has to stay said, so that its KV is
found again.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

from semshare_agents.messages.cleaning import THOUGHT_FIELDS, Chat
from semshare_agents.messages.order import Ordering
from semshare_agents.messages.probing import (
    ANOTHER,
    NOBODY,
    PROBE_TOOL,
    REFUSALS,
    THIRD,
    TOOL,
    WORD,
    Probing,
    assistant,
    once,
    user,
)
from semshare_agents.messages.rounds import SHAPES, Shape
from semshare_agents.tools import ToolFormat, format_of
from semshare_agents.tools.checking import Tools
from semshare_agents.tools.drafts import TAGS

CALLED = ("semshare_first", "semshare_second")
KEY, VALUE = "semshare_key", "semshare_value"
FOUND = ("semshare_found", "semshare_seen")
ASKED, ANSWERED = user(), assistant()
IDS = ("abcdefghi", "bcdefghij")
"""Mistral's templates want ids of exactly nine letters and digits."""
LONG_ID = f"call_{IDS[0]}_{IDS[1]}"
LONGEST_ID = 64

TAG = r"<[^<>\s]+>|\[[^\[\]\s]+\]"


def form_of(tokenizer: Any) -> ToolFormat:
    """How a model writes tool calls, by its tokenizer's chat template."""
    return format_of("" if tokenizer.chat_template is None else tokenizer.get_chat_template(tools=[PROBE_TOOL]))


class Template(Probing):
    """A tokenizer's chat template.

    Args:
        tokenizer: A transformers tokenizer.
        form: How the model writes calls.
    """

    def __init__(self, tokenizer: Any, form: ToolFormat):
        super().__init__(tokenizer)
        self._form = form

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

    @once
    def takes_system(self, tools: bool = False) -> bool:
        """Whether a system message is rendered, in a prompt with tools or without, and stays where it is."""
        told = [{"role": "system", "content": WORD}, user(ANOTHER)]
        return self.keeps(told, [ANSWERED, user(THIRD)], self._given(tools))

    @once
    def takes_systems(self, tools: bool = False) -> bool:
        """Whether several system messages at the start are."""
        told = [{"role": "system", "content": WORD}, {"role": "system", "content": ANOTHER}, user(THIRD)]
        return self.keeps(told, [ANSWERED, ASKED], self._given(tools))

    @once
    def takes_later_system(self) -> bool:
        """Whether a system message after the first exchange is rendered, and after it."""
        return self.keeps([user(WORD)], [ANSWERED, {"role": "system", "content": ANOTHER}, user(THIRD)]) and self.says(
            [ASKED, assistant(WORD), {"role": "system", "content": ANOTHER}, ASKED]
        )

    @once
    def knows(self, role: str, tools: bool = False) -> bool:
        """Whether a role is rendered, and otherwise than any word in the role's place would be."""
        first, other = ([{"role": r, "content": WORD}, ASKED] for r in (role, NOBODY))
        alike = self.probed(first).replace(role, NOBODY) == self.probed(other).replace(role, NOBODY)
        return not alike and self.says(first, self._given(tools))

    @cached_property
    def says_names(self) -> bool:
        """Whether the name of a user is rendered."""
        return WORD in self.probed([{**ASKED, "name": WORD}])

    # --- order

    @once
    def ordering(self, tools: bool) -> Ordering:
        """In which order the template takes messages, in a prompt with tools or without."""
        return Ordering(
            self._runs("user"),
            self._runs("assistant"),
            self._empty,
            self._first_assistant(tools),
            self.says([assistant(WORD)], self._given(tools)),
        )

    @once
    def _runs(self, role: str) -> bool:
        """Whether a role may speak twice."""
        said = [{"role": role, "content": WORD}, {"role": role, "content": ANOTHER}]
        return self.says(said if role == "user" else [ASKED, *said, ASKED])

    @cached_property
    def _empty(self) -> bool:
        """Whether an answer may be empty."""
        return self.says([user(WORD), assistant(""), user(ANOTHER)])

    @once
    def _first_assistant(self, tools: bool) -> bool:
        """Whether an assistant may begin, and is not taken for a user: tools may be put into the first message."""
        given = self._given(tools)
        if not self.says([assistant(WORD), user(ANOTHER)], given):
            return False
        first, asked = (self.probed([m, ANSWERED], given).partition(WORD)[0] for m in (assistant(WORD), user(WORD)))
        return first != asked

    # --- tools

    def _given(self, tools: bool) -> Tools | None:
        return [PROBE_TOOL] if tools and self.shows_tools else None

    @cached_property
    def shows_tools(self) -> bool:
        """Whether tools are rendered."""
        return TOOL in self.probed([ASKED], [PROBE_TOOL])

    @cached_property
    def keeps_tools(self) -> bool:
        """Whether tools stay where they are once more messages follow."""
        return self.keeps([user(WORD)], [ANSWERED, user(ANOTHER)], [PROBE_TOOL])

    @once
    def shape_of(self, tools: bool, text: bool, several: bool) -> Shape:
        """How a message with calls and its results have to be brought for nothing of them to be lost.

        Args:
            tools: Whether the prompt has tools.
            text: Whether there is text beside the calls.
            several: Whether there are several calls.
        """
        given, ordering, count = self._given(tools), self.ordering(tools), 2 if several else 1
        wanted = [*([WORD] if text else []), *CALLED[:count], KEY, VALUE]
        after = [assistant(ANOTHER), user(THIRD)]
        for shape in SHAPES:
            made = [ASKED, *shape.messages(*_probe_round(count, WORD if text else ""), self._form)]
            now, later = (self.probed(ordering.ordered(told), given) for told in (made, [*made, *after]))
            # What follows may be refused, or take what was said back.
            if _tells(now, wanted, FOUND[:count]) and _tells(later, [*wanted, ANOTHER, THIRD], FOUND[:count]):
                return shape
        return SHAPES[-1]

    @cached_property
    def takes_broken(self) -> bool:
        """Whether arguments that are text are rendered, for those that are no object."""
        call, results = _probe_round(1, "")
        call["tool_calls"][0]["function"]["arguments"] = WORD
        return WORD in self._round(call, results)

    @cached_property
    def id_letters(self) -> int:
        """How many letters and digits the id of a call has to have; 0 where any will do."""
        lengths = (len(IDS[0]), *range(1, LONGEST_ID + 1))
        return 0 if self._takes_id(LONG_ID) else next((n for n in lengths if self._takes_id("a" * n)), len(IDS[0]))

    def _takes_id(self, identifier: str) -> bool:
        call, results = _probe_round(1, "")
        call["tool_calls"][0]["id"] = results[0]["tool_call_id"] = identifier
        return bool(self._round(call, results))

    def _round(self, call: dict[str, Any], results: list[dict[str, Any]], *after: dict[str, Any]) -> str:
        """What is made of a message with a call, its results and what follows."""
        shape = self.shape_of(False, False, False)
        return self.probed([ASKED, *shape.messages(call, results, self._form), *after])

    # --- thoughts

    @once
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

    @once
    def forgets(self, thoughts: bool) -> bool:
        """Whether a round is rendered otherwise once the user has spoken again.

        Args:
            thoughts: Whether the message with calls has thoughts.
        """
        call, results = _probe_round(1, "")
        if thoughts:
            call[self.thought_field(True)] = WORD
        now, later = self._round(call, results), self._round(call, results, ANSWERED, ASKED)
        end = now.find(FOUND[0])
        return end > 0 and bool(later) and now[:end] != later[:end]

    def _with_thought(self, thought: dict[str, str], calls: bool) -> str:
        """What is made of a thought before a call, or in an answer."""
        if not calls:
            return self.probed([ASKED, {**ANSWERED, **thought}])
        call, results = _probe_round(1, "")
        return self._round({**call, **thought}, results)

    @cached_property
    def around(self) -> str:
        """What the template writes around messages of others than the assistant."""
        call, results = _probe_round(1, "")
        after = self._round(call, results).rpartition(VALUE)[2]
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


def _tells(text: str, words: Sequence[str], in_order: Sequence[str]) -> bool:
    """Whether a text has words, some of them in their order, and arguments that are no Python."""
    places = [text.find(word) for word in in_order]
    told = all(word in text for word in words) and f"'{KEY}'" not in text
    return told and min(places) >= 0 and places == sorted(places)


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
