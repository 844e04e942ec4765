"""Times from a message list to the first token's logits, many in one process, for laying two builds side by side.

The reference of a pair is stored once, and its target prefilled again and again. Run it in turn in
two checkouts (`PYTHONPATH`), and compare the medians: a machine drifts more within minutes than builds differ.

    python benchmarks/next_turn.py PAIRS.jsonl [--id ID] [--times 25]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from pathlib import Path
from statistics import median
from typing import Any

from semshare_agents.bench.pairs import fresh_memory, read_pairs
from semshare_agents.model.loading import load
from semshare_agents.request.request import Request
from semshare_agents.settings import load_settings
from semshare_agents.values import Reuse, Sampling


async def measure(pair: dict[str, Any], times: int) -> dict[str, Any]:
    """Wall and processor seconds of prefills with reuse."""
    settings = load_settings()
    wall: list[float] = []
    busy: list[float] = []
    async with fresh_memory(load(settings.model, settings.home), settings, "memory") as llm:
        await llm.generate(pair["reference"], max_new_tokens=1)
        await llm.settle()
        request = Request(pair["target"], "default", Reuse.MOVED, Sampling(max_new_tokens=4), store=False)
        for _ in range(times):
            start, used = time.perf_counter(), time.process_time()
            prefilled = await llm.pipeline.prefill(request)
            int(prefilled.logits.argmax())  # a device has finished once its result is read
            wall.append(time.perf_counter() - start)
            busy.append(time.process_time() - used)
            prefilled.run.close()
    seconds = {"min": min(wall), "median": median(wall), "processor_median": median(busy)}
    return {"id": pair["id"], "class": prefilled.report.reuse_class, "tokens": len(prefilled.prompt), **seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs", type=Path)
    parser.add_argument("--id", help="the pair; default: the first one of the kind `next-turn`")
    parser.add_argument("--times", type=int, default=25)
    given = parser.parse_args()
    pairs = read_pairs(given.pairs, () if given.id else ("next-turn",))
    pair = next((pair for pair in pairs if given.id in (None, pair["id"])), None)
    if pair is None:
        parser.error(f"{given.pairs} has no pair {given.id}")
    print(json.dumps(asyncio.run(measure(pair, given.times))))


if __name__ == "__main__":
    main()
