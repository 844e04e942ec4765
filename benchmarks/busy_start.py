"""How soon next turns are reused where an adapter started, and measured its speeds, beside a full load that then ends.

Processes keep every core busy while the adapter starts in a home that knows no speeds. They end, and a conversation of
about a thousand tokens goes on turn by turn: which turn is the first to be reused, and after how many seconds. The
machine itself has to be quiet otherwise.

usage: python benchmarks/busy_start.py [--turns 10] [--tokens 1000] [--model default]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from semshare_agents.cli.common import quiet_libraries
from semshare_agents.llm import SemShareLLM
from semshare_agents.model.loading import LoadedModel, load
from semshare_agents.settings import load_settings

BURN = "import time\nend = time.monotonic() + 300\nwhile time.monotonic() < end: pass"

HEALING_SECONDS = 120.0
"""How long a quiet measurement may take to come."""


@contextmanager
def full_load() -> Iterator[None]:
    """A process on every core; each ends by itself if nobody ends it."""
    burners = [subprocess.Popen([sys.executable, "-c", BURN]) for _ in range(os.cpu_count() or 1)]
    try:
        yield
    finally:
        for burner in burners:
            burner.kill()
            burner.wait()


def text(seed: int, tokens: int) -> str:
    """Numbers, about three tokens each."""
    return " ".join(map(str, np.random.default_rng(seed).integers(10, 100, tokens // 3)))


def measured(llm: SemShareLLM) -> dict[str, Any]:
    """What the adapter goes by now."""
    cost = llm.pipeline.planner.cost
    assert cost is not None
    known = cost.measurement
    return {"quality": known.quality, "delayed": known.delayed, "spread": known.spread, **asdict(known.speeds)}


async def measure(loaded: LoadedModel, home: Path, turns: int, tokens: int) -> dict[str, Any]:
    """Start beside the load, end it, talk."""
    with full_load():
        await asyncio.sleep(1.0)
        llm = await SemShareLLM.open(loaded=loaded, home=home, max_new_tokens=8)
    began, rows = time.perf_counter(), []
    async with llm:
        first = measured(llm)
        talk = llm.session("s")
        for turn in range(turns):
            report = (await talk.send(text(turn, tokens if turn == 0 else 60))).report
            after = time.perf_counter() - began
            rows.append({"turn": turn + 1, "after_s": after, "class": report.reuse_class, "reason": report.reason})
            print(rows[-1], file=sys.stderr)
        reused = next((row for row in rows[1:] if row["class"] != "cold"), None)
        if llm._running.remeasurer is not None:
            with suppress(TimeoutError):
                await asyncio.wait_for(llm._running.remeasurer.settle(), HEALING_SECONDS)
        last = {**measured(llm), "after_s": time.perf_counter() - began}
    return {"first": first, "turns": rows, "first_reused": reused, "last": last}


def main() -> None:
    """Print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=10)
    parser.add_argument("--tokens", type=int, default=1000)
    parser.add_argument("--model", default="default")
    chosen = parser.parse_args()
    quiet_libraries()
    settings = load_settings(model=chosen.model)
    loaded = load(settings.model, settings.home, settings.device, settings.dtype)
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(asyncio.run(measure(loaded, Path(folder), chosen.turns, chosen.tokens)), indent=1))


if __name__ == "__main__":
    main()
