"""What the LangChain face adds to the time to the first token: `astream` against the adapter called directly.

Twice: on the adapter's own event loop, and on another one, where every piece crosses threads.

usage: python benchmarks/langchain_overhead.py [--tokens 1000] [--repeat 30]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from contextlib import aclosing
from typing import Any

from langchain_semshare import ChatSemShare

from semshare_agents.llm import SemShareLLM
from semshare_agents.settings import load_settings


async def direct(llm: SemShareLLM, text: str) -> float:
    start = time.perf_counter()
    messages = [{"role": "user", "content": text}]
    async with aclosing(llm.stream(messages, max_new_tokens=2, store=False)) as pieces:
        await anext(pieces)
        return time.perf_counter() - start


async def face(model: ChatSemShare, text: str) -> float:
    start = time.perf_counter()
    async with aclosing(model.astream(text)) as parts:
        await anext(parts)
        return time.perf_counter() - start


def elsewhere(model: ChatSemShare, text: str, loop: asyncio.AbstractEventLoop) -> float:
    return loop.run_until_complete(face(model, text))


def in_ms(pairs: list[tuple[float, ...]]) -> dict[str, float]:
    """Medians, and the medians of the differences within each round."""
    straight = statistics.median(p[0] for p in pairs)
    added = [statistics.median(p[i] - p[0] for p in pairs) for i in (1, 2)]
    names = ("direct_ms", "overhead_ms", "overhead_other_loop_ms")
    return {name: round(1000 * value, 2) for name, value in zip(names, (straight, *added), strict=True)}


async def measure(tokens: int, repeat: int) -> dict[str, Any]:
    home = load_settings().home
    other = asyncio.new_event_loop()
    with tempfile.TemporaryDirectory() as scratch:
        places = {"database_url": f"sqlite+aiosqlite:///{scratch}/registry.db", "store_dir": f"{scratch}/kv"}
        async with SemShareLLM.open(home=home, **places) as llm:
            count = llm.pipeline.model.tokenizer
            text = count.decode(count.encode(" ".join(f"word{i}" for i in range(tokens)))[:tokens])
            await llm.generate([{"role": "user", "content": text}], max_new_tokens=2)
            await llm.settle()
            model = ChatSemShare(llm=llm, max_tokens=2, store=False)
            rounds: list[tuple[float, ...]] = []
            # One after the other in one run, so that all see the same machine.
            for _ in range(repeat + 2):
                crossed = asyncio.to_thread(elsewhere, model, text, other)
                rounds.append((await direct(llm, text), await face(model, text), await crossed))
    other.close()
    return {"tokens": tokens, "repeat": repeat, **in_ms(rounds[2:])}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=1000)
    parser.add_argument("--repeat", type=int, default=30)
    options = parser.parse_args()
    print(json.dumps(asyncio.run(measure(options.tokens, options.repeat))))
