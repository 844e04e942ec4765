"""Threads for what blocks: the event loop's own pool is the application's, whose calls may be waiting for us there.

Turns and what stores them have threads apart, so that a turn never waits for files of turns before it.
"""

from __future__ import annotations

import asyncio
import contextvars
import os
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar

T = TypeVar("T")
U = TypeVar("U")
P = ParamSpec("P")

_workers = ThreadPoolExecutor(8, thread_name_prefix="semshare-work")
# Packing and writing compete with the model for processors: few at a time.
_storers = ThreadPoolExecutor(max(2, (os.cpu_count() or 1) // 2), thread_name_prefix="semshare-store")


async def work(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run a step of a turn on a thread, in this context."""
    return await _run(_workers, partial(function, *args, **kwargs))


async def store(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run what keeps, writes or deletes KV on a thread, in this context."""
    return await _run(_storers, partial(function, *args, **kwargs))


def store_later(function: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> None:
    """The same without waiting for it."""
    _storers.submit(contextvars.copy_context().run, partial(function, *args, **kwargs))


async def both(first: Awaitable[T], second: Awaitable[U]) -> tuple[T, U]:
    """What both give, side by side; where one fails, the other is awaited. The second's error goes first."""
    one, two = await asyncio.gather(first, second, return_exceptions=True)
    for outcome in (two, one):
        if isinstance(outcome, BaseException):
            raise outcome
    return one, two  # type: ignore[return-value]  # neither is an error


async def _run(pool: ThreadPoolExecutor, call: Callable[[], T]) -> T:
    return await asyncio.get_running_loop().run_in_executor(pool, contextvars.copy_context().run, call)
