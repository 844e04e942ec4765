"""A real server on loopback, in the test's own event loop."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import openai
import uvicorn
from semshare_server import Keyring, create_app

from semshare_agents.llm import SemShareLLM
from semshare_agents.settings import load_server_settings

MODEL = "tiny-llama"


@asynccontextmanager
async def serving(llm: SemShareLLM, keyring: Keyring | None = None, **settings: Any) -> AsyncIterator[str]:
    """Serve an adapter; yields the base URL."""
    app = create_app(llm, load_server_settings(**settings), keyring or Keyring({}))
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        config = uvicorn.Config(app, log_config=None, lifespan="on", timeout_graceful_shutdown=10)
        server = uvicorn.Server(config)
        task = asyncio.create_task(server._serve([listener]))
        while not server.started:
            if task.done():
                task.result()
            await asyncio.sleep(0.01)
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            await task


def client(url: str, key: str = "none") -> openai.AsyncOpenAI:
    """The official client of a server."""
    return openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0, timeout=60)
