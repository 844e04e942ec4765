"""Output items while they grow, and the events that tell of it, in the order in which clients expect them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from semshare_agents.values import CallPart, Generation, Piece
from semshare_server.shapes import cut_off

Told = dict[str, Any]
"""An event of a stream, without its number."""


class Output:
    """The items of one answer.

    Args:
        ids: Makes an item's id of what it is and of its place.
    """

    def __init__(self, ids: Callable[[str, int], str]):
        self._ids = ids
        self._open: dict[str, Any] | None = None
        self.items: list[dict[str, Any]] = []

    def push(self, piece: Piece) -> Iterator[Told]:
        """Go on by what a piece thinks, says and calls."""
        if piece.thoughts:
            yield from self._thought(piece.thoughts)
        if piece.text:
            yield from self._said(piece.text)
        for part in piece.tool_calls:
            yield from self._called(part)

    def end(self, generation: Generation) -> Iterator[Told]:
        """Close what is open; an answer that says and calls nothing is an empty message."""
        for part in cut_off(generation):
            yield from self._called(part)
        if all(item["type"] == "reasoning" for item in self.items):
            yield from self._closed("completed")
            yield from self._opened(self._message())
        yield from self._closed("incomplete" if generation.finish_reason == "length" else "completed")

    def _thought(self, text: str) -> Iterator[Told]:
        if self._open is None or self._open["type"] != "reasoning":
            yield from self._closed("completed")
            part = {"type": "reasoning_text", "text": ""}
            item = {"id": self._ids("rs", len(self.items)), "type": "reasoning", "summary": [], "content": [part]}
            yield from self._opened({**item, "status": "in_progress"})
        assert self._open is not None
        self._open["content"][0]["text"] += text
        yield self._told("response.reasoning_text.delta", content_index=0, delta=text)

    def _said(self, text: str) -> Iterator[Told]:
        if self._open is None or self._open["type"] != "message":
            yield from self._closed("completed")
            yield from self._opened(self._message())
        assert self._open is not None
        self._open["content"][0]["text"] += text
        yield self._told("response.output_text.delta", content_index=0, delta=text, logprobs=[])

    def _called(self, part: CallPart) -> Iterator[Told]:
        if part.name:
            yield from self._closed("completed")
            yield from self._opened(
                {
                    "id": self._ids("fc", len(self.items)),
                    "type": "function_call",
                    "status": "in_progress",
                    "call_id": part.id,
                    "name": part.name,
                    "arguments": "",
                }
            )
        if part.arguments and self._open is not None and self._open["type"] == "function_call":
            self._open["arguments"] += part.arguments
            yield self._told("response.function_call_arguments.delta", delta=part.arguments)

    def _message(self) -> dict[str, Any]:
        return {
            "id": self._ids("msg", len(self.items)),
            "type": "message",
            "status": "in_progress",
            "role": "assistant",
            "content": [{"type": "output_text", "text": "", "annotations": [], "logprobs": []}],
        }

    def _opened(self, item: dict[str, Any]) -> Iterator[Told]:
        self.items.append(item)
        self._open = item
        parts = "content" in item
        yield self._about(item, "response.output_item.added", item={**item, "content": []} if parts else dict(item))
        if parts:
            yield self._told("response.content_part.added", content_index=0, part=dict(item["content"][0]))

    def _closed(self, status: str) -> Iterator[Told]:
        item, self._open = self._open, None
        if item is None:
            return
        item["status"] = status
        if item["type"] == "function_call":
            done = {"name": item["name"], "arguments": item["arguments"]}
            yield self._about(item, "response.function_call_arguments.done", item_id=item["id"], **done)
        else:
            part = dict(item["content"][0])
            done = {"content_index": 0, "text": part["text"]}
            if item["type"] == "reasoning":
                yield self._about(item, "response.reasoning_text.done", item_id=item["id"], **done)
            else:
                yield self._about(item, "response.output_text.done", item_id=item["id"], **done, logprobs=[])
            yield self._about(item, "response.content_part.done", item_id=item["id"], content_index=0, part=part)
        yield self._about(item, "response.output_item.done", item=dict(item))

    def _told(self, kind: str, **more: Any) -> Told:
        """An event about the open item."""
        assert self._open is not None
        return self._about(self._open, kind, item_id=self._open["id"], **more)

    def _about(self, item: dict[str, Any], kind: str, /, **more: Any) -> Told:
        return {"type": kind, "output_index": self.items.index(item), **more}


def of_whole(generation: Generation) -> Piece:
    """A complete answer as one piece."""
    calls = tuple(
        CallPart(index, call.id, call.name, call.arguments) for index, call in enumerate(generation.tool_calls)
    )
    return Piece(generation.text, tool_calls=calls, thoughts=generation.thoughts)
