"""One answer: its place in the queue, its pieces, and the client that may go away meanwhile."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Any

from fastapi import Request
from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from semshare_agents.errors import SemShareError
from semshare_agents.timing.clock import Clock
from semshare_agents.values import Generation, Piece
from semshare_server.errors import APIError, of_package
from semshare_server.limits import Admission, Place

log = logging.getLogger(__name__)

CLIENT_CLOSED = 499

Event = str | dict[str, str]
"""Data of an event, or its fields, such as `event` and `data`."""


class ClientGoneError(Exception):
    """The client closed its connection."""


class Answering:
    """Pieces of an answer under way; `aclose` ends it and frees its place.

    Args:
        admission: Who lets it in.
        pieces: Starts the answer, of a caller who has waited since its clock began.
    """

    def __init__(self, admission: Admission, pieces: Callable[[Clock], AsyncGenerator[Piece]]):
        self._clock = Clock()
        self._admission = admission
        self._start = pieces
        self._place: Place | None = None
        self._pieces: AsyncGenerator[Piece] | None = None
        self._next: asyncio.Task[Piece | None] | None = None

    async def _advance(self) -> Piece | None:
        """The next piece, the first one after a place was free; None after the last."""
        if self._pieces is None:
            self._place = await self._admission.enter()
            self._pieces = self._start(self._clock)
        return await anext(self._pieces, None)

    async def first(self, request: Request, timeout_seconds: float) -> None:
        """Wait for the first piece, so that what is wrong with a prompt still gets a status of its own.

        Returns after the time too: the stream then begins with pings.

        Raises:
            ClientGoneError: the client closed its connection.
            APIError: the queue is full.
            SemShareError: the prompt cannot be answered.
        """
        self._next = asyncio.create_task(self._advance())
        gone = asyncio.create_task(_gone(request))
        try:
            await asyncio.wait({self._next, gone}, timeout=timeout_seconds, return_when=asyncio.FIRST_COMPLETED)
            if self._next.done():
                self._next.result()
            elif gone.done():
                raise ClientGoneError
        finally:
            gone.cancel()

    async def __aiter__(self) -> AsyncIterator[Piece]:
        while True:
            task = self._next or asyncio.create_task(self._advance())
            self._next = task
            # Whoever reads may be cancelled more than once: `aclose` alone ends the computation.
            piece = await asyncio.shield(task)
            self._next = None
            if piece is None:
                return
            yield piece

    async def whole(self, request: Request) -> Generation:
        """The whole answer; of several the last one.

        Raises:
            ClientGoneError: the client closed its connection; the computation has ended then.
        """
        return (await self.wholes(request))[-1]

    async def wholes(self, request: Request) -> list[Generation]:
        """All answers whole, in their order; errors as in `whole`."""
        task = asyncio.create_task(self._all())
        gone = asyncio.create_task(_gone(request))
        try:
            await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                return task.result()
            raise ClientGoneError
        finally:
            gone.cancel()
            await _ended(task)

    async def _all(self) -> list[Generation]:
        found = []
        while (piece := await self._advance()) is not None:
            found += [] if piece.generation is None else [piece.generation]
        assert found
        return found

    async def aclose(self) -> None:
        """End the computation where it is still under way and free the place; closing twice is fine."""
        try:
            if self._next is not None:
                await _ended(self._next)
            if self._pieces is not None:
                await self._pieces.aclose()
        finally:
            if self._place is not None:
                self._place.free()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _ended(task: asyncio.Task[Any]) -> None:
    task.cancel()
    await asyncio.wait({task})
    if not task.cancelled():
        task.exception()


class AnswerStream(EventSourceResponse):
    """Server-sent events of an answer, with pings; whatever ends the response ends the answer.

    Args:
        answering: The answer.
        events: Makes its events.
        ping_seconds: A comment is sent after so much silence.
        grace_seconds: How long it may go on once the server ends.
        cancelled: Called where the client went away.
        failed: Makes the event that ends a stream that fails.
        ping: Makes what is sent after silence.
    """

    def __init__(
        self,
        answering: Answering,
        events: AsyncIterator[Event],
        ping_seconds: int,
        grace_seconds: int,
        cancelled: Callable[[], None],
        *,
        failed: Callable[[APIError], Event],
        ping: Callable[[], ServerSentEvent],
    ):
        self._answering = answering
        self._complete = False
        self._cancelled = cancelled
        self._failed = failed
        super().__init__(
            self._sent(events),
            ping=ping_seconds,
            sep="\n",
            ping_message_factory=ping,
            shutdown_grace_period=grace_seconds,
        )

    async def _sent(self, events: AsyncIterator[Event]) -> AsyncIterator[dict[str, str]]:
        try:
            async for event in events:
                yield _fields(event)
        except (SemShareError, APIError) as e:
            error = of_package(e) if isinstance(e, SemShareError) else e
            yield _fields(self._failed(error))
        self._complete = True

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._answering.aclose()
            if not self._complete:
                self._cancelled()


def _fields(event: Event) -> dict[str, str]:
    return {"data": event} if isinstance(event, str) else event


def client_closed() -> Response:
    """What is answered to nobody."""
    return Response(status_code=CLIENT_CLOSED)
