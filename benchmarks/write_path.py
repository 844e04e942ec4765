"""What storing a turn costs the next one: the wait between the last token and the turn's end, and a slower next turn.

`python benchmarks/write_path.py [--turns 5] [--tokens 5000]`; medians, in one run.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from pathlib import Path

from semshare_agents.llm import SemShareLLM
from semshare_agents.model.loading import load
from semshare_agents.settings import load_settings


async def measure(turns: int, tokens: int) -> None:
    model = load("default", load_settings().home)
    with tempfile.TemporaryDirectory() as folder:
        async with SemShareLLM.open(loaded=model, home=Path(folder), repair_idle=False) as llm:
            took: dict[bool, list[float]] = {False: [], True: []}
            waited: list[float] = []
            for number in range(turns):
                for store in (False, True):
                    text = f"turn {number} {store} " + "of words that follow one another " * (tokens // 6)
                    start = last = time.perf_counter()
                    asked = llm.stream([{"role": "user", "content": text}], reuse="off", store=store, max_new_tokens=8)
                    async for piece in asked:
                        if piece.generation is None:
                            last = time.perf_counter()
                    took[store].append(time.perf_counter() - start)
                    if store:
                        waited.append(time.perf_counter() - last)
                    # The next turn begins at once, while files are still written.
                    hello = [{"role": "user", "content": "hello"}]
                    await llm.generate(hello, reuse="off", store=False, max_new_tokens=1)
                    await llm.flush()
    whole = statistics.median(took[True])
    print(f"turn {whole:.2f} s, without storing {statistics.median(took[False]):.2f} s")
    print(
        f"wait after the last piece: {statistics.median(waited):.3f} s, {100 * statistics.median(waited) / whole:.2f} %"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=5000)
    options = parser.parse_args()
    asyncio.run(measure(options.turns, options.tokens))
