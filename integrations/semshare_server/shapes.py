"""How answers look on the wire: whole, and as the events of a stream."""

from __future__ import annotations

import json
import math
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol
from uuid import uuid4

from semshare_agents.tools.calls import broken_off
from semshare_agents.values import CallPart, Generation, Piece, TokenLogprob, ToolCall
from semshare_server.core import Form

LEAST_LOGPROB = -9999.0
"""What stands for no probability at all: JSON has no infinity."""


class Shape(Protocol):
    """How one route's answers look."""

    id: str

    def whole(self, generation: Generation, *others: Generation) -> dict[str, Any]:
        """A complete answer, or several to one request."""

    def opening(self, first: Piece) -> dict[str, Any] | None:
        """The first event; None where there is none."""

    def piece(self, piece: Piece) -> dict[str, Any]:
        """An event with text, calls or both."""

    def closing(self, generation: Generation) -> dict[str, Any]:
        """The event that says why the answer ended."""

    def usage(self, generation: Generation, *others: Generation) -> dict[str, Any]:
        """The event with token counts."""


class _Base:
    def __init__(self, prefix: str, kind: str, model: str):
        self.id = f"{prefix}-{uuid4().hex}"
        self._head = {"id": self.id, "object": kind, "created": int(time.time()), "model": model}

    def _event(self, choice: dict[str, Any] | None, index: int = 0, **more: Any) -> dict[str, Any]:
        choices = [] if choice is None else [{"index": index, "logprobs": None, "finish_reason": None, **choice}]
        return {**self._head, "choices": choices, **more}

    def _whole(self, kind: str, choices: list[dict[str, Any]], answers: Sequence[Generation]) -> dict[str, Any]:
        each = zip(choices, answers, strict=True)
        told = [{"index": a.choice, "logprobs": None, **c, "finish_reason": a.finish_reason} for c, a in each]
        counts, reuse = self._counts(answers), reuse_of(answers[0])
        return {**self._head, "object": kind, "choices": told, "usage": counts, "semshare": reuse}

    def _counts(self, answers: Sequence[Generation]) -> dict[str, Any]:
        return usage_of(*answers)

    def usage(self, generation: Generation, *others: Generation) -> dict[str, Any]:
        return self._event(None, usage=self._counts((generation, *others)))


class ChatShape(_Base):
    """Chat completions."""

    def __init__(self, model: str):
        super().__init__("chatcmpl", "chat.completion.chunk", model)

    def whole(self, generation: Generation, *others: Generation) -> dict[str, Any]:
        """A complete answer, or several to one request."""
        answers = (generation, *others)
        return self._whole("chat.completion", [self._choice(answer) for answer in answers], answers)

    def _choice(self, answer: Generation) -> dict[str, Any]:
        calls = [called(call.id, call.name, arguments_of(call)) for call in answer.tool_calls]
        message: dict[str, Any] = {"role": "assistant", "content": answer.text or (None if calls else "")}
        if answer.thoughts:
            message["reasoning_content"] = answer.thoughts
        if calls:
            message["tool_calls"] = calls
        return {"message": message, "logprobs": chat_logprobs(answer.logprobs)}

    def opening(self, first: Piece) -> dict[str, Any] | None:
        """Says whose the answer is."""
        content = None if first.tool_calls else ""
        return self._event({"delta": {"role": "assistant", "content": content}}, first.choice)

    def piece(self, piece: Piece) -> dict[str, Any]:
        """An event with text, calls or both."""
        delta: dict[str, Any] = {"reasoning_content": piece.thoughts} if piece.thoughts else {}
        delta |= {"content": piece.text} if piece.text else {}
        if piece.tool_calls:
            delta["tool_calls"] = [part_of(part) for part in piece.tool_calls]
        return self._event({"delta": delta, "logprobs": chat_logprobs(piece.logprobs)}, piece.choice)

    def closing(self, generation: Generation) -> dict[str, Any]:
        """Why the answer ended, and what was reused."""
        choice = {"delta": {}, "finish_reason": generation.finish_reason}
        return self._event(choice, generation.choice, semshare=reuse_of(generation))


class TextShape(_Base):
    """Completions of plain text.

    Args:
        model: The model's name.
        before: What stands before each answer: its prompt where that is asked for.
        unsaid: Whether the answers are left out: the prompts alone were to be read.
    """

    def __init__(self, model: str, before: Sequence[str] = (), unsaid: bool = False):
        super().__init__("cmpl", "text_completion", model)
        self._before = before
        self._unsaid = unsaid

    def whole(self, generation: Generation, *others: Generation) -> dict[str, Any]:
        """A complete answer, or several to one request."""
        answers = (generation, *others)
        return self._whole("text_completion", [self._choice(answer) for answer in answers], answers)

    def _counts(self, answers: Sequence[Generation]) -> dict[str, Any]:
        counts = usage_of(*answers)
        return {**counts, "completion_tokens": 0, "total_tokens": counts["prompt_tokens"]} if self._unsaid else counts

    def _prompt(self, choice: int) -> str:
        return self._before[choice] if self._before else ""

    def _choice(self, answer: Generation) -> dict[str, Any]:
        before = self._prompt(answer.choice)
        text, logprobs = ("", ()) if self._unsaid else (answer.text, answer.logprobs)
        found = text_logprobs([*_aligned(answer.prompt_logprobs, before), *_moved(logprobs, len(before))])
        return {"text": before + text, "logprobs": found}

    def opening(self, first: Piece) -> dict[str, Any] | None:
        """Text begins at once, or the prompt stands before it."""
        return self._event({"text": self._prompt(first.choice)}, first.choice) if self._before else None

    def piece(self, piece: Piece) -> dict[str, Any]:
        """An event with text."""
        if self._unsaid:
            return self._event({"text": ""}, piece.choice)
        found = text_logprobs(_moved(piece.logprobs, len(self._prompt(piece.choice))))
        return self._event({"text": piece.text, "logprobs": found}, piece.choice)

    def closing(self, generation: Generation) -> dict[str, Any]:
        """Why the answer ended, and what was reused."""
        choice = {"text": "", "finish_reason": generation.finish_reason}
        return self._event(choice, generation.choice, semshare=reuse_of(generation))


def _aligned(logprobs: Sequence[TokenLogprob], text: str) -> list[TokenLogprob]:
    """A prompt's tokens where its text has them: a mark or a space that the tokenizer puts before it has no place."""
    if not logprobs:
        return []
    more = sum(len(found.text) for found in logprobs) - len(text)
    return _moved(logprobs, -more) if more in (1, len(logprobs[0].text)) else list(logprobs)


def _moved(logprobs: Sequence[TokenLogprob], by: int) -> list[TokenLogprob]:
    """The same behind a text of so many characters."""
    return [replace(found, start=max(0, found.start + by)) for found in logprobs]


def chat_logprobs(logprobs: Sequence[TokenLogprob]) -> dict[str, Any] | None:
    """How likely tokens were, in chat completions' form; None where nobody asked."""
    if not logprobs:
        return None
    return {
        "content": [{**_told(found), "top_logprobs": [_told(other) for other in found.top]} for found in logprobs],
        "refusal": None,
    }


def _told(found: TokenLogprob) -> dict[str, Any]:
    return {"token": found.text, "logprob": max(found.logprob, LEAST_LOGPROB), "bytes": list(found.data)}


def text_logprobs(logprobs: Sequence[TokenLogprob]) -> dict[str, Any] | None:
    """The same in the older form of completions; a prompt's first token has none."""
    if not logprobs:
        return None
    first = [math.isnan(found.logprob) for found in logprobs]
    own = [max(found.logprob, LEAST_LOGPROB) for found in logprobs]
    return {
        "tokens": [found.text for found in logprobs],
        "token_logprobs": [None if none else value for none, value in zip(first, own, strict=True)],
        "top_logprobs": [None if none else _likeliest(found) for none, found in zip(first, logprobs, strict=True)],
        "text_offset": [found.start for found in logprobs],
    }


def _likeliest(found: TokenLogprob) -> dict[str, float]:
    """Log probabilities by text; of texts that several tokens have the likeliest, and the token's own in any case."""
    each = {other.text: max(other.logprob, LEAST_LOGPROB) for other in reversed(found.top)}
    return {**dict(reversed(each.items())), found.text: max(found.logprob, LEAST_LOGPROB)}


def called(identifier: str, name: str, arguments: str) -> dict[str, Any]:
    """A tool call."""
    return {"id": identifier, "type": "function", "function": {"name": name, "arguments": arguments}}


def arguments_of(call: ToolCall) -> str:
    """A call's arguments; those of a call that was cut off parse as nothing, also where a client completes JSON."""
    return call.arguments if call.whole else call.arguments + broken_off(call.arguments)


def cut_off(generation: Generation) -> tuple[CallPart, ...]:
    """What ends calls of a stream that were cut off."""
    calls = enumerate(generation.tool_calls)
    return tuple(CallPart(i, arguments=broken_off(call.arguments)) for i, call in calls if not call.whole)


def part_of(part: CallPart) -> dict[str, Any]:
    """What is new of a call: first what it is, then its arguments bit by bit."""
    if part.name:
        return {"index": part.index, **called(part.id, part.name, part.arguments)}
    return {"index": part.index, "function": {"arguments": part.arguments}}


def usage_of(generation: Generation, *others: Generation) -> dict[str, Any]:
    """Token counts, of several answers together; cached tokens are exact ones."""
    answers = (generation, *others)
    prompt = sum(answer.usage.prompt_tokens for answer in answers)
    completion = sum(answer.usage.completion_tokens for answer in answers)
    reused = sum(a.usage.prompt_tokens - a.report.tokens["computed"] for a in answers if a.usage.prompt_tokens)
    cached = sum(answer.usage.cached_tokens for answer in answers)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": cached, "reused_tokens": reused},
    }


def reuse_of(generation: Generation) -> dict[str, Any]:
    """The report, without the map, which the page and `semshare turns show` have."""
    return generation.report.as_dict()


async def events(pieces: AsyncIterator[Piece], shape: Shape, with_usage: bool) -> AsyncIterator[str]:
    """The events of a streamed answer, each one JSON text but for the last."""
    opened: set[int] = set()
    answers: list[Generation] = []
    async for piece in pieces:
        if piece.choice not in opened and (opening := shape.opening(piece)) is not None:
            yield json.dumps(opening)
        opened.add(piece.choice)
        if piece.text or piece.tool_calls or piece.thoughts or piece.logprobs:
            yield json.dumps(shape.piece(replace(piece, generation=None)))
        if piece.generation is not None:
            answers.append(piece.generation)
            cut = cut_off(piece.generation)
            if cut:
                yield json.dumps(shape.piece(Piece("", tool_calls=cut, choice=piece.choice)))
            yield json.dumps(shape.closing(piece.generation))
    if with_usage and answers:
        yield json.dumps(shape.usage(*answers))
    yield "[DONE]"


@dataclass
class Completions(Form):
    """Completions in their shape.

    Attributes:
        shape: The shape.
        with_usage: Whether their stream ends with token counts.
    """

    shape: Shape
    with_usage: bool

    def whole(self, generation: Generation, *others: Generation) -> dict[str, Any]:
        """The complete answers."""
        return self.shape.whole(generation, *others)

    def events(self, pieces: AsyncIterator[Piece]) -> AsyncIterator[str]:
        """Their events."""
        return events(pieces, self.shape, self.with_usage)
