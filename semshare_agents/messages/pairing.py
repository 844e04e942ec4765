"""Which result answers which call: by the call's id, never by where it stands."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from semshare_agents.errors import InvalidMessagesError
from semshare_agents.messages.cleaning import RESULTS, Chat, place


class Round(NamedTuple):
    """A message with calls and their results, as indices of messages.

    Attributes:
        at: The message that calls.
        results: For each call its result, None where there is none.
    """

    at: int
    results: tuple[int | None, ...]


class Alone(NamedTuple):
    """A message that stands for itself; a result among them lost its call when a history was trimmed.

    Attributes:
        at: Its index.
    """

    at: int


def paired(messages: Chat) -> list[Round | Alone]:
    """The messages in their order, results bound to the calls before them.

    Results that follow a message with calls have to answer one of these calls each. Results that follow no calls are
    what a trimmed history leaves; they stand alone.

    Raises:
        InvalidMessagesError: two calls of a message have one id, or a result answers no call, or one that has a result.
    """
    items: list[Round | Alone] = []
    answered: set[str] = set()
    at = 0
    while at < len(messages):
        calls = messages[at].get("tool_calls")
        end = at + 1
        if not calls:
            _check_alone(messages, at, answered)
            items.append(Alone(at))
        else:
            while end < len(messages) and messages[end]["role"] in RESULTS:
                end += 1
            made = _round(messages, at, range(at + 1, end))
            ids = {call["id"] for call in calls}
            answered -= ids
            answered |= {calls[k]["id"] for k, r in enumerate(made.results) if r is not None} - {""}
            items.append(made)
        at = end
    return items


def _check_alone(messages: Chat, at: int, answered: set[str]) -> None:
    message = messages[at]
    if message["role"] not in RESULTS:
        return
    identifier, told = message.get("tool_call_id"), place(messages, at)
    if identifier in answered:
        raise InvalidMessagesError(f"message {told} is a second result of the call {identifier!r}: give each call one")
    if not identifier and not message.get("name"):
        raise InvalidMessagesError(
            f"message {told} is the result of no call: set its tool_call_id to that of the call which it answers"
        )


def _round(messages: Chat, at: int, results: Sequence[int]) -> Round:
    calls = messages[at]["tool_calls"]
    ids = [call["id"] for call in calls if call["id"]]
    twice = sorted({i for i in ids if ids.count(i) > 1})
    if twice:
        raise InvalidMessagesError(
            f"message {place(messages, at)} has two tool calls with the id {twice[0]!r}: give each its own"
        )
    bound: dict[int, int] = {}
    for index in results:
        bound[_call_of(messages, at, index, bound)] = index
    return Round(at, tuple(bound.get(k) for k in range(len(calls))))


def _call_of(messages: Chat, at: int, index: int, bound: dict[int, int]) -> int:
    """Which call of message `at` the result `index` answers; where it names none, the only one that it can mean."""
    calls, result = messages[at]["tool_calls"], messages[index]
    identifier = result.get("tool_call_id")
    named = [k for k, call in enumerate(calls) if call["id"] and call["id"] == identifier]
    told = place(messages, index)
    if named and named[0] in bound:
        raise InvalidMessagesError(f"message {told} is a second result of the call {identifier!r}: give each call one")
    if named:
        return named[0]
    free = [k for k in range(len(calls)) if k not in bound and not (identifier and calls[k]["id"])]
    alike = [k for k in free if calls[k]["function"]["name"] == result.get("name")]
    # Calls without ids can only be meant by their names or in their order.
    chosen = alike if len(alike) == 1 else free if len(free) == 1 or not any(call["id"] for call in calls) else []
    if not chosen:
        known = ", ".join(repr(call["id"]) for call in calls if call["id"]) or "none with an id"
        raise InvalidMessagesError(
            f"message {told} is the result of {f'a call {identifier!r}' if identifier else 'no named call'}, "
            f"but the calls of message {place(messages, at)} are: {known}; set its tool_call_id to one of them"
        )
    return chosen[0]
