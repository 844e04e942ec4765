"""How long the event loop is blocked while an adapter and a server work on it.

Sessions talk with prompts of a thousand tokens, half of them to the adapter directly, half over HTTP from a process of
their own; answers are streamed, turns stored, and the budgets are so small that blocks are evicted. A heartbeat on the
same loop asks to be woken every millisecond: what it is late is how long others kept the loop, the interpreter's lock
or the processor. Callbacks are timed as well: a long one is ours, a late heartbeat between short ones is the machine's.

usage: python benchmarks/event_loop.py [--sessions 16] [--turns 2] [--tokens 1000] [--answer 16]
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import sys
import tempfile
import time
from asyncio.events import Handle
from contextlib import contextmanager
from typing import Any

import numpy as np
import openai
import uvicorn
from semshare_server import Keyring, create_app

from semshare_agents.llm import SemShareLLM
from semshare_agents.settings import load_server_settings, load_settings

BEAT_SECONDS = 0.001
MIB = 1024**2


def words(session: int, turn: int, tokens: int) -> str:
    """Numbers, about three tokens each, of which each session has its own."""
    rng = np.random.default_rng((session, turn))
    return " ".join(map(str, rng.integers(10, 100, tokens // 3)))


def question(session: int, turn: int, tokens: int) -> str:
    """A long first turn, short ones after it."""
    return words(session, turn, tokens if turn == 0 else 60)


def what(handle: Handle) -> str:
    """What a callback is, by name: its `repr` would print the tensors that a task hands over, for half a second."""
    callback = handle._callback  # type: ignore[attr-defined]
    owner = getattr(callback, "__self__", None)
    if isinstance(owner, asyncio.Task):
        return getattr(owner.get_coro(), "__qualname__", "a task")
    return getattr(callback, "__qualname__", type(callback).__name__)


class Callbacks:
    """The longest of the loop's callbacks."""

    def __init__(self) -> None:
        self.longest: list[tuple[float, float, str]] = []

    @contextmanager
    def timed(self) -> Any:
        """Time every callback meanwhile."""
        run = Handle._run

        def timed(handle: Handle) -> None:
            start, busy = time.perf_counter(), time.thread_time()
            run(handle)
            took, busy = time.perf_counter() - start, time.thread_time() - busy
            if took > BEAT_SECONDS:
                self.longest.append((took, busy, what(handle)))

        Handle._run = timed  # type: ignore[method-assign]
        try:
            yield
        finally:
            Handle._run = run  # type: ignore[method-assign]


async def beat(late: list[float]) -> None:
    """Note how late each wake-up is, in seconds."""
    while True:
        start = time.perf_counter()
        await asyncio.sleep(BEAT_SECONDS)
        late.append(time.perf_counter() - start - BEAT_SECONDS)


async def direct(llm: SemShareLLM, number: int, options: argparse.Namespace) -> None:
    """A session of the adapter."""
    talk = llm.session(f"direct-{number}")
    for turn in range(options.turns):
        async for _ in talk.stream(question(number, turn, options.tokens), max_new_tokens=options.answer):
            pass


async def client(url: str, numbers: range, options: argparse.Namespace) -> None:
    """Sessions of the server."""
    async with openai.AsyncOpenAI(base_url=url, api_key="none", timeout=600) as ai:
        model = (await ai.models.list()).data[0].id

        async def talk(number: int) -> None:
            said: list[Any] = []
            for turn in range(options.turns):
                said.append({"role": "user", "content": question(number, turn, options.tokens)})
                stream = await ai.chat.completions.create(
                    model=model, messages=said, max_tokens=options.answer, stream=True
                )
                answer = "".join([e.choices[0].delta.content or "" async for e in stream])
                said.append({"role": "assistant", "content": answer})

        await asyncio.gather(*(talk(number) for number in numbers))


async def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Run the load; milliseconds."""
    late: list[float] = []
    callbacks = Callbacks()
    half = options.sessions // 2
    with tempfile.TemporaryDirectory() as scratch:
        places = {"database_url": f"sqlite+aiosqlite:///{scratch}/registry.db", "store_dir": f"{scratch}/kv"}
        budgets = {"memory_bytes": options.memory * MIB, "disk_bytes": 2 * options.memory * MIB}
        async with SemShareLLM.open(home=load_settings().home, **places, **budgets) as llm:
            config = uvicorn.Config(create_app(llm, load_server_settings(), Keyring({})), port=0, log_config=None)
            server = uvicorn.Server(config)
            gc.freeze()  # as `semshare serve` does
            serving = asyncio.create_task(server.serve())
            while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
                await asyncio.sleep(0.01)
            port = server.servers[0].sockets[0].getsockname()[1]
            words_of = [f"--{name}={value}" for name, value in vars(options).items() if name != "client"]
            command = [sys.executable, __file__, *words_of, f"--client=http://127.0.0.1:{port}/v1"]
            heart = asyncio.create_task(beat(late))
            began = time.perf_counter()
            with callbacks.timed():
                others = await asyncio.create_subprocess_exec(*command)
                await asyncio.gather(*(direct(llm, number, options) for number in range(half)))
                failed = await others.wait()
                await llm.settle()
            seconds = time.perf_counter() - began
            heart.cancel()
            evicted = {tier.name: sum(dict(tier.evicted).values()) for tier in llm.pipeline.memory.tiers.tiers}
            turns = len(await llm.pipeline.memory.registry.turns(10_000))
            server.should_exit = True
            await serving
    if failed or turns != options.sessions * options.turns:
        raise SystemExit(f"{turns} turns were answered, the clients ended with status {failed}")
    for took, busy, name in sorted(callbacks.longest, reverse=True)[: options.callbacks]:
        print(f"{1000 * took:7.1f} ms, {1000 * busy:5.1f} on the processor: {name}", file=sys.stderr)
    p50, p99, most = (1000 * np.quantile(late, q) for q in (0.5, 0.99, 1.0))
    return {
        "sessions": options.sessions,
        "turns": turns,
        "seconds": round(seconds, 1),
        "evicted_blocks": evicted,
        "beats": len(late),
        "late_ms": {"p50": round(p50, 2), "p99": round(p99, 2), "max": round(most, 2)},
        "over_10_ms": sum(x > 0.01 for x in late),
        "longest_callback_ms": round(1000 * max((took for took, _, _ in callbacks.longest), default=0.0), 2),
        "busiest_callback_ms": round(1000 * max((busy for _, busy, _ in callbacks.longest), default=0.0), 2),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sessions", type=int, default=16)
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=1000)
    parser.add_argument("--answer", type=int, default=16)
    parser.add_argument("--memory", type=int, default=256, help="RAM budget in MiB; the disk's is twice that")
    parser.add_argument("--callbacks", type=int, default=8, help="longest callbacks told on stderr")
    parser.add_argument("--client", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.client:
        asyncio.run(client(chosen.client, range(chosen.sessions // 2, chosen.sessions), chosen))
    else:
        print(json.dumps(asyncio.run(measure(chosen))))
