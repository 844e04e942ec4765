"""A conversation whose history the registry keeps."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, Protocol

from semshare_agents.errors import RegistryError
from semshare_agents.observe.reader import Reader
from semshare_agents.registry import Pin
from semshare_agents.request.options import said
from semshare_agents.timing.clock import Clock
from semshare_agents.values import Generation, Messages, Piece

log = logging.getLogger(__name__)


class Adapter(Protocol):
    """What a conversation needs of an adapter, real or fake."""

    @property
    def reader(self) -> Reader:
        """What may be read of it."""

    def stream(self, messages: Messages, *, clock: Clock | None = None, **options: Any) -> AsyncGenerator[Piece]:
        """See `SemShareLLM.stream`."""

    async def pin(self, *, session: str, tenant: str, seconds: float | None) -> Pin:
        """See `SemShareLLM.pin`."""

    async def unpin(self, *, session: str, tenant: str) -> bool:
        """See `SemShareLLM.unpin`."""


class Session:
    """A conversation. Turns of one session follow one another; turns of different sessions run side by side.

    What is said with `store=False` is known to this object alone: turns with `store=False` that follow at once are told
    of it, and a turn that is stored never is, since it would be stored with it.
    """

    def __init__(self, llm: Adapter, name: str, tenant: str, system: str | None, defaults: dict[str, Any]):
        self._llm = llm
        self.name = name
        self.tenant = tenant
        self._system = system
        self._defaults = defaults
        self._lock = asyncio.Lock()
        self._messages: list[dict[str, Any]] | None = None
        self._unstored: list[dict[str, Any]] = []
        self._forgets = 0

    async def messages(self) -> list[dict[str, Any]]:
        """The conversation so far."""
        async with self._lock:
            return [*await self._stored(), *self._unstored]

    async def _stored(self) -> list[dict[str, Any]]:
        """The conversation as far as it is, or may be, stored."""
        stored = self._llm.reader.stored
        if self._messages is not None and await self._was_forgotten():
            self._messages, self._unstored = None, []
        if self._messages is None:
            self._forgets = await stored.newest_forget()
            history = await stored.history(self.tenant, self.name)
            if self._system is not None:
                history = [m for m in history if m["role"] != "system"]
                history.insert(0, {"role": "system", "content": self._system})
            self._messages = history
        return list(self._messages)

    async def _was_forgotten(self) -> bool:
        """Whether some of what is in memory here was forgotten, by whichever process."""
        try:
            return await self._llm.reader.stored.forgotten(self.tenant, self.name, self._forgets)
        except RegistryError as e:
            # The memory may fail, an answer may not.
            log.warning("a session goes on from memory: %s", e)
            return False

    async def pin(self, seconds: float | None = None) -> Pin:
        """Keep the conversation's KV from being evicted; see `SemShareLLM.pin`."""
        return await self._llm.pin(session=self.name, tenant=self.tenant, seconds=seconds)

    async def unpin(self) -> bool:
        """Let the conversation's KV be evicted again; whether it was pinned."""
        return await self._llm.unpin(session=self.name, tenant=self.tenant)

    async def send(self, text: str, **options: Any) -> Generation:
        """Say something and get the answer; options as in `SemShareLLM.generate`."""
        return await whole(self.stream(text, **options))

    async def stream(self, text: str, **options: Any) -> AsyncGenerator[Piece]:
        """Say something and get the answer piece by piece; a turn that is broken off leaves the history unchanged."""
        clock = Clock()
        options = {**self._defaults, **said(options), "tenant": self.tenant, "session": self.name}
        async with self._lock:
            with clock.stage("admit"):
                history = await self._stored()
            kept = options.get("store", True)
            before = [] if kept else self._unstored
            asked = {"role": "user", "content": text}
            async with aclosing(self._llm.stream([*history, *before, asked], clock=clock, **options)) as pieces:
                async for piece in pieces:
                    if piece.generation is not None and not piece.choice:
                        exchange = [asked, {"role": "assistant", "content": piece.generation.raw}]
                        self._went_on(history, exchange, kept)
                    yield piece

    def _went_on(self, history: list[dict[str, Any]], exchange: list[dict[str, Any]], kept: bool) -> None:
        if kept:
            self._messages, self._unstored = [*history, *exchange], []
        else:
            self._unstored = [*self._unstored, *exchange]


async def whole(stream: AsyncGenerator[Piece]) -> Generation:
    """The answer that a stream ends with; of several the first."""
    generation: Generation | None = None
    async with aclosing(stream) as pieces:
        async for piece in pieces:
            generation = generation or piece.generation
    assert generation is not None
    return generation
