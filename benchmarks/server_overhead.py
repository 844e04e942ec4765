"""What the server adds to the time to the first token: streamed over loopback against the adapter called directly.

usage: python benchmarks/server_overhead.py [--tokens 1000] [--repeat 30]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
import statistics
import tempfile
import time
from contextlib import aclosing
from typing import Any

import openai
import uvicorn
from semshare_server import Keyring, create_app

from semshare_agents.llm import SemShareLLM
from semshare_agents.settings import load_server_settings, load_settings

Messages = list[Any]


async def direct(llm: SemShareLLM, messages: Messages) -> float:
    start = time.perf_counter()
    async with aclosing(llm.stream(messages, max_new_tokens=2, store=False)) as pieces:
        async for piece in pieces:
            if piece.text or piece.generation:
                return time.perf_counter() - start
    raise RuntimeError("no answer")


async def served(client: openai.AsyncOpenAI, model: str, messages: Messages) -> float:
    extra = {"semshare": {"store": False}}
    start = time.perf_counter()
    took = None
    stream = await client.chat.completions.create(
        model=model, messages=messages, max_tokens=2, stream=True, extra_body=extra
    )
    async for event in stream:
        done = event.choices[0].delta.content or event.choices[0].finish_reason
        took = took if took is not None or not done else time.perf_counter() - start
    assert took is not None
    return took


async def measure(tokens: int, repeat: int) -> dict[str, Any]:
    home = load_settings().home
    with tempfile.TemporaryDirectory() as scratch:
        places = {"database_url": f"sqlite+aiosqlite:///{scratch}/registry.db", "store_dir": f"{scratch}/kv"}
        async with SemShareLLM.open(home=home, **places) as llm:
            words = " ".join(f"word{i}" for i in range(tokens))
            count = llm.pipeline.model.tokenizer
            ids = count.encode(words)[:tokens]
            messages: Messages = [{"role": "user", "content": count.decode(ids)}]
            await llm.generate(messages, max_new_tokens=2)
            with socket.socket() as listener:
                listener.bind(("127.0.0.1", 0))
                app = create_app(llm, load_server_settings(), Keyring({}))
                server = uvicorn.Server(uvicorn.Config(app, log_config=None))
                task = asyncio.create_task(server._serve([listener]))
                while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
                    await asyncio.sleep(0.01)
                url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
                async with openai.AsyncOpenAI(base_url=url, api_key="none") as client:
                    model = (await client.models.list()).data[0].id
                    # One after the other in one run, so that both see the same machine.
                    pairs = [
                        (await direct(llm, messages), await served(client, model, messages)) for _ in range(repeat + 2)
                    ]
                server.should_exit = True
                await task
    straight, over = (statistics.median(side) for side in zip(*pairs[2:], strict=True))
    difference = statistics.median(b - a for a, b in pairs[2:])
    return {
        "tokens": tokens,
        "repeat": repeat,
        "direct_ms": round(1000 * straight, 2),
        "served_ms": round(1000 * over, 2),
        "overhead_ms": round(1000 * difference, 2),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=1000)
    parser.add_argument("--repeat", type=int, default=30)
    options = parser.parse_args()
    print(json.dumps(asyncio.run(measure(options.tokens, options.repeat))))
