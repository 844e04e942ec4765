"""The order in which a template takes messages: who may begin, who may speak twice, and who has to take turns.

Messages of one role in a row become one where the template wants turns. Where a call or a result stands between them,
or nobody has asked yet, an empty message of the other role is put in: it says nothing, and moves no other message.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from semshare_agents.messages.cleaning import RESULTS, THOUGHT_FIELDS
from semshare_agents.messages.rounds import RESULT_TAGS, Message

Told = list[tuple[int, Message]]
"""Messages as the template gets them, each with the index of the caller's message that it comes from."""

SPEAKERS = ("user", "assistant")


@dataclass(frozen=True)
class Ordering:
    """What a template takes.

    Attributes:
        users: Whether the user may speak twice in a row.
        assistants: Whether the assistant may.
        empty: Whether an answer may be empty.
        first_assistant: Whether an assistant may begin.
        no_user: Whether there may be no user at all.
    """

    users: bool
    assistants: bool
    empty: bool
    first_assistant: bool
    no_user: bool

    def ordered(self, messages: Sequence[Message]) -> list[Message]:
        """Messages in an order that the template takes."""
        return [message for _, message in self.told([*enumerate(messages)])]

    def told(self, told: Told, orphans: frozenset[int] = frozenset()) -> Told:
        """The same of messages with their indices.

        Args:
            told: The messages.
            orphans: Which of them are results without calls: text of the user, one with what the user says next.
        """
        if not orphans and not self.takes_turns and self.empty and self.first_assistant and self.no_user:
            return told
        walk = _Walk(self, orphans)
        for at, message in told:
            walk.take(at, message)
        return self._asked(walk.out)

    @property
    def takes_turns(self) -> bool:
        """Whether user and assistant take turns."""
        return not (self.users and self.assistants)

    def merges(self, role: str) -> bool:
        """Whether messages of a role in a row become one."""
        return not (self.users if role == "user" else self.assistants)

    def _asked(self, told: Told) -> Told:
        """The messages with a user among them, where the template wants one: results told as text are no question."""
        users = [m for _, m in told if m["role"] == "user"]
        if self.no_user or any(self.takes_turns or not _is_result(m) for m in users):
            return told
        first = next((k for k, (_, m) in enumerate(told) if m["role"] not in ("system", "developer")), len(told))
        at = told[min(first, len(told) - 1)][0]
        return [*told[:first], (at, nothing("user")), *told[first:]]


class _Walk:
    """Goes through messages once."""

    def __init__(self, ordering: Ordering, orphans: frozenset[int]):
        self._ordering = ordering
        self._orphans = orphans
        self._last = ""
        """Who spoke last, calls and results aside."""
        self.out: Told = []

    def take(self, at: int, message: Message) -> None:
        """Go on by a message."""
        role, ordering = message["role"], self._ordering
        if role in RESULTS or role not in SPEAKERS:
            self.out.append((at, message))
            return
        calls = "tool_calls" in message
        if role == "assistant" and not calls and not ordering.empty and _says_nothing(message):
            return
        if role == "assistant" and not self._last and not ordering.first_assistant:
            self._say(at, nothing("user"))
        if calls:
            # Who answers twice, once before the call and once after it, does not take turns.
            if ordering.takes_turns and self._last == "assistant":
                self._say(at, nothing("user"))
            self.out.append((at, message))
        elif self._joins(message):
            before = self.out[-1][1]
            self.out[-1] = (at, joined(before, message))
        else:
            if role == self._last and ordering.takes_turns:
                self._say(at, nothing("assistant" if role == "user" else "user"))
            self._say(at, message)

    def _joins(self, message: Message) -> bool:
        """Whether a message becomes one with that before it."""
        at, before = self.out[-1] if self.out else (-1, {"role": ""})
        alike = before["role"] == message["role"] and "tool_calls" not in before
        return alike and (self._ordering.merges(message["role"]) or at in self._orphans)

    def _say(self, at: int, message: Message) -> None:
        self.out.append((at, message))
        self._last = message["role"]


def nothing(role: str) -> Message:
    """An empty message."""
    return {"role": role, "content": ""}


def joined(first: Message, second: Message) -> Message:
    """Two messages of one role as one."""
    return {**first, **second, "content": "\n\n".join(m["content"] for m in (first, second) if m["content"])}


def _is_result(message: Message) -> bool:
    content: str = message["content"]
    return content.startswith(RESULT_TAGS[0]) and content.endswith(RESULT_TAGS[1])


def _says_nothing(message: Message) -> bool:
    return not message["content"].strip() and not any(message.get(field) for field in THOUGHT_FIELDS)
