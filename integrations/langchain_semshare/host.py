"""An adapter and the event loop on which it lives; it may be called from any thread and any other loop.

An adapter serves one event loop. What is called on that loop runs there directly; other callers hand their call over
and wait for what comes back.
"""

from __future__ import annotations

import asyncio
import contextvars
import json
import queue
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from concurrent.futures import Future
from concurrent.futures import thread as _executors  # noqa: F401 - its exit hook has to run after ours
from contextlib import aclosing, suppress
from typing import Any, TypeVar

from semshare_agents.errors import ConfigurationError
from semshare_agents.llm import SemShareLLM
from semshare_agents.values import Generation, Piece

T = TypeVar("T")
Pieces = Callable[[SemShareLLM], AsyncGenerator[Piece]]

_own: dict[str, OwnHost] = {}
_lock = threading.Lock()


class Host:
    """Calls an adapter where it lives.

    Args:
        loop: The adapter's event loop.
        llm: The adapter, open.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, llm: SemShareLLM):
        self._loop = loop
        self._llm = llm

    async def _opened(self) -> SemShareLLM:
        return self._llm

    # --- answers in one piece

    async def agenerate(self, pieces: Pieces) -> Generation:
        """The answer to a call."""
        if asyncio.get_running_loop() is self._loop:
            return await self._last(pieces)
        return await asyncio.wrap_future(self._submit(self._last(pieces)))

    def generate(self, pieces: Pieces) -> Generation:
        """The answer to a call; blocks.

        Raises:
            ConfigurationError: it would wait for itself.
        """
        return self._result(self._last(pieces))

    async def _last(self, pieces: Pieces) -> Generation:
        generation: Generation | None = None
        async with aclosing(pieces(await self._opened())) as stream:
            async for piece in stream:
                generation = piece.generation
        assert generation is not None
        return generation

    # --- streams

    async def astream(self, pieces: Pieces) -> AsyncGenerator[Piece]:
        """The pieces of a call; closing the iterator ends its computation."""
        loop = asyncio.get_running_loop()
        if loop is self._loop:
            async with aclosing(pieces(await self._opened())) as stream:
                async for piece in stream:
                    yield piece
            return
        arrived: asyncio.Queue[Piece | None] = asyncio.Queue()
        future = self._submit(self._forward(pieces, lambda p: loop.call_soon_threadsafe(arrived.put_nowait, p)))
        try:
            while (next_piece := await arrived.get()) is not None:
                yield next_piece
            await asyncio.wrap_future(future)
        finally:
            future.cancel()

    def stream(self, pieces: Pieces) -> Generator[Piece]:
        """The pieces of a call; blocks. Closing the iterator ends its computation.

        Raises:
            ConfigurationError: it would wait for itself.
        """
        self._not_here()
        arrived: queue.SimpleQueue[Piece | None] = queue.SimpleQueue()
        future = self._submit(self._forward(pieces, arrived.put))
        try:
            while (piece := arrived.get()) is not None:
                yield piece
            future.result()
        finally:
            future.cancel()

    async def _forward(self, pieces: Pieces, put: Callable[[Piece | None], object]) -> None:
        try:
            async with aclosing(pieces(await self._opened())) as stream:
                async for piece in stream:
                    put(piece)
        finally:
            # The reader's own loop may be closed by now.
            with suppress(RuntimeError):
                put(None)

    # --- crossing over

    def _submit(self, call: Coroutine[Any, Any, T]) -> Future[T]:
        """Run a coroutine on the adapter's loop, in the caller's context: spans of a trace keep their parent."""
        context = contextvars.copy_context()

        async def inside() -> T:
            return await asyncio.get_running_loop().create_task(call, context=context)

        return asyncio.run_coroutine_threadsafe(inside(), self._loop)

    def _result(self, call: Coroutine[Any, Any, T]) -> T:
        try:
            self._not_here()
        except ConfigurationError:
            call.close()
            raise
        return self._submit(call).result()

    def _not_here(self) -> None:
        try:
            here = asyncio.get_running_loop()
        except RuntimeError:
            return
        if here is self._loop:
            raise ConfigurationError("this adapter lives on the running event loop: use ainvoke, astream or abatch")


class OwnHost(Host):
    """A host with a thread and an event loop of its own, and an adapter that is opened with the first call.

    Args:
        settings: Settings of the adapter.

    Raises:
        ConfigurationError: a setting is not allowed.
    """

    def __init__(self, settings: dict[str, Any]):
        llm = SemShareLLM.open(**settings)
        super().__init__(asyncio.new_event_loop(), llm)
        self._settings = settings
        self._opening = asyncio.Lock()
        self.closed = False
        self._thread = threading.Thread(target=self._loop.run_forever, name="semshare-loop", daemon=True)
        self._thread.start()

    async def _opened(self) -> SemShareLLM:
        async with self._opening:
            try:
                return await self._llm
            except BaseException:
                # What could not be opened cannot be opened again; a new one may.
                self._llm = SemShareLLM.open(**self._settings)
                raise

    def close(self) -> None:
        """Close the adapter, which finishes what it has to write, and end the thread; closing twice is fine.

        Raises:
            ConfigurationError: it would wait for itself.
        """
        if self.closed:
            return
        self._result(self._llm.aclose())
        self.closed = True
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


def host_of(settings: dict[str, Any]) -> Host:
    """The host of an adapter with these settings; models with equal settings share one."""
    key = json.dumps(settings, sort_keys=True, default=str)
    with _lock:
        if key not in _own or _own[key].closed:
            _own[key] = OwnHost(settings)
        return _own[key]


def close_all() -> None:
    """Close the adapters that models opened by themselves; at exit this happens by itself."""
    with _lock:
        hosts = list(_own.values())
        _own.clear()
    for host in hosts:
        host.close()


# Files are written on executors, which refuse work once the interpreter's own exit hooks have begun; only hooks
# of `threading` run before that.
threading._register_atexit(close_all)  # type: ignore[attr-defined]
