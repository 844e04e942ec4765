"""Processes that write a memory and are killed for it. They are forked from one that has the model in RAM already.

`python -m tests.stress.writer` reads jobs from stdin, one JSON object a line, forks a child for each, and tells on
stdout `pid N`, what the child says and `ended STATUS`.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import json
import os
import signal
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from semshare_agents.llm import SemShareLLM
from semshare_agents.memory import pins as pinning
from semshare_agents.operate import audit
from semshare_agents.registry import Registry
from semshare_agents.store import DiskStore, Tiers, disk, file_format
from semshare_agents.store.ledger import Ledger
from tests import pipelines, tiny

FIXTURES = Path(__file__).parents[1] / "fixtures"
STEPS: dict[str, tuple[Any, str]] = {
    "encode": (file_format, "encode"),
    "fsync": (os, "fsync"),
    "rename": (Path, "rename"),
    "folder": (disk, "_sync_folder"),
    "unlink": (DiskStore, "delete"),
    "turn": (Registry, "add_turn"),
    "visible": (Registry, "made_durable"),
    "drop": (Registry, "drop_blocks"),
    "longer": (Registry, "supersede"),
    "repaired": (Registry, "repaired"),
    "room": (DiskStore, "take"),
    "ledger": (Ledger, "_append"),
    "sink": (Tiers, "_demote"),
    "demoted": (Registry, "demoted"),
    "forget": (Registry, "forget"),
    "delete": (DiskStore, "delete"),
    "erase": (Registry, "erase"),
    "pin": (Registry, "pin"),
    "fits": (pinning, "check"),
    "unpin": (Registry, "unpin"),
}
"""The steps of storing, evicting, demoting, forgetting and pinning, by name; a child dies before or after one."""
KIND_OF = {"unlink": "evict", "drop": "evict", "room": "quota", "sink": "sink", "demoted": "sink"}
KIND_OF |= dict.fromkeys(("forget", "delete", "erase"), "forget")
KIND_OF |= dict.fromkeys(("pin", "fits", "unpin"), "pin")
"""The work that takes a step; `store` takes the others."""


def say(text: str) -> None:
    os.write(1, f"{text}\n".encode())


def die_at(step: str, when: str, nth: int) -> None:
    """Let this process kill itself the `nth` time that a step begins or is done."""
    owner, name = STEPS[step]
    function, calls = getattr(owner, name), 0

    def counted() -> None:
        nonlocal calls
        calls += 1
        if calls == nth:
            os.kill(os.getpid(), signal.SIGKILL)

    @functools.wraps(function)
    def plain(*arguments: Any, **named: Any) -> Any:
        if when == "before":
            counted()
        result = function(*arguments, **named)
        if when == "after":
            counted()
        return result

    @functools.wraps(function)
    async def waiting(*arguments: Any, **named: Any) -> Any:
        if when == "before":
            counted()
        result = await function(*arguments, **named)
        if when == "after":
            counted()
        return result

    setattr(owner, name, waiting if inspect.iscoroutinefunction(function) else plain)


def text_of(number: int) -> str:
    return tiny.words(14, number)


def opened(home: str, **more: Any) -> SemShareLLM:
    """An adapter on the memory that is written, as the writer and its checker use it."""
    # By default a few steps make short turns exact, and nothing is left to repair.
    settings: dict[str, Any] = {"fidelity": "fast", "block_tokens": 16, "max_new_tokens": 4, "head_tokens": 4}
    settings |= {"tail_tokens": 4, "min_gain": 1.0}
    return SemShareLLM.open(loaded=tiny.loaded("llama"), home=Path(home), **{**settings, **more})


SMALL: dict[str, dict[str, Any]] = {
    "evict": {"memory_bytes": 120_000, "disk_bytes": 400_000},
    "quota": {"memory_bytes": 120_000, "disk_bytes": 4_000_000, "tenant_bytes": 400_000},
    # What waits for a file does not leave RAM, and then it need not sink: without a disk it sinks from the device.
    "sink": {"device": "cpu", "device_bytes": 60_000, "disk_bytes": 0},
    "pin": {"memory_bytes": 120_000, "disk_bytes": 400_000},
}
"""Settings that make a kind of work happen."""


async def write(job: dict[str, Any]) -> None:
    """Turns, and what is said of them: `answered` (its row is there), `durable` (its files are too)."""
    async with opened(job["home"], **SMALL.get(job["kind"], {})) as llm:
        assert llm.pipeline.model.support.rows is not None
        pipelines.replan(llm, cost=tiny.cost(tiny.REUSE_WINS, llm.pipeline.model.support.rows.token_bytes))
        for number in range(job["first"], job["first"] + 400):
            answer = await llm.generate([tiny.user(text_of(number))], session=f"s{number}")
            if answer.report.turn_id is not None:
                say(f"answered {number} {answer.report.turn_id}")
            shifted = [tiny.system("another beginning"), tiny.user(text_of(number))]
            await llm.generate(shifted)  # approximate, and repaired in idle time
            more = [tiny.user(text_of(number)), tiny.assistant(answer.text), tiny.user("go on")]
            await llm.generate(more)  # a longer block takes a shorter one's place
            if number % 3 == 0:
                await llm.settle()
            if job["kind"] == "forget" and number > job["first"]:
                say(f"forgetting {number - 1}")
                await llm.forget(session=f"s{number - 1}")
                say(f"forgot {number - 1}")
            await llm.flush()
            say(f"durable {number} {answer.report.turn_id}")
            if job["kind"] == "pin":
                await pin(llm, number, job["first"])


async def pin(llm: SemShareLLM, number: int, first: int) -> None:
    """A turn's session is pinned, and stays so while more turns are stored than fit beside it."""
    say(f"pinning {number}")
    await llm.pin(session=f"s{number}")
    say(f"pinned {number}")
    if number >= first + 2:
        say(f"unpinning {number - 2}")
        assert await llm.unpin(session=f"s{number - 2}")
        say(f"unpinned {number - 2}")


async def upgrade(job: dict[str, Any]) -> None:
    """Databases of the version before this one are made and upgraded, over and over."""
    script = (FIXTURES / "registry-v2-sqlite.sql").read_text()
    for number in range(400):
        path = Path(job["home"]) / f"old-{job['first']}-{number}.db"
        with sqlite3.connect(path) as db:
            db.executescript(script)
        db.close()
        say(f"old {path}")
        await (await Registry.open(f"sqlite+aiosqlite:///{path}", upgrade=True)).close()


async def mend(job: dict[str, Any]) -> None:
    """An audit repairs what is broken again and again."""
    home = Path(job["home"])
    registry = await Registry.open(f"sqlite+aiosqlite:///{home / 'registry.db'}")
    store = DiskStore(home / "kv")
    for number in range(400):
        files = sorted(store.folder.glob("*/*.safetensors"))
        for path in files[number % 7 :: 7][:2]:
            path.write_bytes(path.read_bytes()[:-9])
        (store.folder / f"orphan{number}.safetensors").write_bytes(b"x")
        say("mending")
        await audit.repair(registry, store, await audit.audit(registry, store))
    await registry.close()


WORK: dict[str, Callable[[dict[str, Any]], Any]] = {
    **dict.fromkeys(("store", "evict", "quota", "sink", "forget", "pin"), write),
    "upgrade": upgrade,
    "mend": mend,
}


def main() -> None:
    torch.set_num_threads(1)
    tiny.loaded("llama")
    say("ready")
    for line in sys.stdin:
        job = json.loads(line)
        child = os.fork()
        if child == 0:
            if job["step"]:
                die_at(job["step"], job["when"], job["nth"])
            asyncio.run(WORK[job["kind"]](job))
            os._exit(0)
        say(f"pid {child}")
        _, status = os.waitpid(child, 0)
        say(f"ended {status}")


if __name__ == "__main__":
    main()
