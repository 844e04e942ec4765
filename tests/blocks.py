"""Runs Python blocks of the documentation, all on one model that is loaded once; prints what became of each as JSON.

Standard input is a JSON list of blocks. Each runs as a program of its own would, in a memory of its own; blocks that
talk to http://127.0.0.1:8000 find a server there, under another port. A process of its own keeps what they register
and change away from the tests.
"""

from __future__ import annotations

import asyncio
import io
import json
import os
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

from semshare_agents.llm import SemShareLLM
from semshare_agents.settings import load_settings
from tests.preloaded import preload
from tests.serving import serving

MODELS = load_settings().home / "models"
SERVER = "http://127.0.0.1:8000"


@contextmanager
def served(home: Path) -> Iterator[str]:
    """A server in a thread of its own; yields its URL."""
    started, done = threading.Event(), asyncio.Event()
    found: dict[str, Any] = {}

    async def run() -> None:
        found["loop"] = asyncio.get_running_loop()
        async with SemShareLLM.open(home=home) as llm, serving(llm) as url:
            found["url"] = url
            started.set()
            await done.wait()

    thread = threading.Thread(target=lambda: asyncio.run(run()))
    thread.start()
    assert started.wait(120), "the server did not start"
    try:
        yield found["url"]
    finally:
        found["loop"].call_soon_threadsafe(done.set)
        thread.join()


def run(block: str, home: Path) -> dict[str, str]:
    """What a block printed, and the traceback where it failed."""
    # Who counts tokens without an adapter finds the model that was fetched.
    if not (models := home / "models").exists():
        home.mkdir(parents=True, exist_ok=True)
        models.symlink_to(MODELS)
    # Answers whose length a block leaves open need not be long.
    os.environ |= {"SEMSHARE_HOME": str(home), "SEMSHARE_MAX_NEW_TOKENS": "24"}
    printed, error = io.StringIO(), ""
    with redirect_stdout(printed):
        try:
            exec(compile(block, "block", "exec", dont_inherit=True), {"__name__": "__main__"})
        except Exception:
            error = traceback.format_exc()
    return {"printed": printed.getvalue(), "error": error}


def main(folder: Path) -> None:
    preload()
    blocks = json.load(sys.stdin)
    with served(folder / "server") as url:
        results = [run(block.replace(SERVER, url), folder / str(number)) for number, block in enumerate(blocks)]
    print(json.dumps(results))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
