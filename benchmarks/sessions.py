"""What do many sessions cost one another? Uses the public API alone, so that another build can be measured beside it.

python benchmarks/sessions.py [--home DIR] [--only decode gap together retry] [--times 3]
PYTHONPATH=OTHER_CHECKOUT python benchmarks/sessions.py ...   # the same on another build

- decode: tokens a second over all, of 1, 2, 4 and 8 sessions at about 1,000 tokens and of one at about 2,000, while all
  of them stream;
- gap: the longest pause in a stream while another session prefills 6,000 tokens cold, beside that prefill;
- together: tokens computed for six questions on one dossier of 3,000 tokens at once, over those of one prompt;
- retry: the prefill after a time-out at half of a cold one, over a cold one.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import tempfile
import time
from itertools import pairwise
from typing import Any

from semshare_agents import SemShareLLM

Messages = list[dict[str, Any]]
PLACES = ("the harbour", "the mill", "the school", "the bridge", "the market", "the chapel", "the depot")
THINGS = ("lamp", "ledger", "kettle", "compass", "violin", "ladder", "basket", "lantern")


def text(tokens: int, seed: int) -> str:
    """Sentences of about so many tokens; no two seeds share a sentence's beginning."""
    draw = random.Random(seed)
    parts, size = [f"Report {draw.getrandbits(60)}."], 0
    while size < tokens:
        parts.append(
            f"On day {draw.randrange(1, 999)} clerk {draw.randrange(99)} left the {draw.choice(THINGS)} at "
            f"{draw.choice(PLACES)} and wrote down {draw.randrange(10_000)}."
        )
        size += 25
    return " ".join(parts)


def asked(tokens: int, seed: int, question: str = "Tell at length, in many sentences, what happened.") -> Messages:
    """A question about a text of its own."""
    return [{"role": "user", "content": f"{text(tokens, seed)}\n\n{question}"}]


async def arrivals(llm: SemShareLLM, messages: Messages, tokens: int) -> list[float]:
    """When each piece of an answer came."""
    return [time.perf_counter() async for piece in llm.stream(messages, max_new_tokens=tokens) if piece.text]


async def decode(llm: SemShareLLM, seed: int) -> dict[str, float]:
    """Pieces a second over all sessions, while all of them stream."""
    found = {}
    for sessions, tokens in ((1, 1000), (2, 1000), (4, 1000), (8, 1000), (1, 2000)):
        prompts = [asked(tokens, seed * 100 + tokens + i) for i in range(sessions)]
        await asyncio.gather(*(llm.generate(prompt, max_new_tokens=1) for prompt in prompts))
        times = await asyncio.gather(*(arrivals(llm, prompt, 64) for prompt in prompts))
        begin, end = max(t[0] for t in times), min(t[-1] for t in times)
        pieces = sum(begin < at <= end for t in times for at in t)
        found[f"{sessions} at {tokens}"] = pieces / max(end - begin, 1e-9)
    return found


async def gap(llm: SemShareLLM, seed: int) -> dict[str, float]:
    """The longest pause of a stream beside a cold prefill, and that prefill, in seconds."""
    beside, times = asked(6000, seed + 5000), list[float]()
    span = [0.0, 0.0]

    async def other() -> None:
        span[0] = time.perf_counter()
        await llm.generate(beside, max_new_tokens=1)
        span[1] = time.perf_counter()

    task = None
    async for piece in llm.stream(asked(500, seed + 4000), max_new_tokens=400):
        if piece.text:
            times.append(time.perf_counter())
            if task is None and len(times) > 4:
                task = asyncio.ensure_future(other())
        if task is not None and task.done():
            break
    assert task is not None
    await task
    inside = [t for t in times if span[0] - 1 < t < span[1]]
    pauses = [b - a for a, b in pairwise(inside)]
    return {"longest gap": max(pauses), "prefill": span[1] - span[0], "pieces": len(inside)}


async def together(llm: SemShareLLM, seed: int) -> dict[str, float]:
    """Tokens computed for six questions on one dossier at once, over one prompt's."""
    dossier = text(3000, seed + 7000)
    asks = [[{"role": "user", "content": f"{dossier}\n\nQuestion {i}: who was at {PLACES[i]}?"}] for i in range(6)]
    found = await asyncio.gather(*(llm.generate(ask, max_new_tokens=8) for ask in asks))
    return {"computed": sum(g.report.tokens["computed"] for g in found) / found[0].usage.prompt_tokens}


async def retry(llm: SemShareLLM, seed: int) -> dict[str, float]:
    """The prefill of a retry after a time-out at half of a cold one, over a cold one."""
    cold = await llm.generate(asked(3000, seed + 8000), max_new_tokens=1)
    prompt = asked(3000, seed + 9000)
    try:
        async with asyncio.timeout(cold.report.ttft_seconds / 2):
            await llm.generate(prompt, max_new_tokens=1)
    except TimeoutError:
        pass
    again = await llm.generate(prompt, max_new_tokens=1)
    return {
        "seconds": again.report.ttft_seconds / cold.report.ttft_seconds,
        "computed": again.report.tokens["computed"] / again.usage.prompt_tokens,
    }


KINDS = {"decode": decode, "gap": gap, "together": together, "retry": retry}


async def main() -> None:
    """Measure and print medians."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--home", help="folder of the model; default: the package's own")
    parser.add_argument("--only", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--seed", type=int, default=time.time_ns() % 10**9)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        settings: dict[str, Any] = {
            "database_url": f"sqlite+aiosqlite:///{scratch}/memory.db",
            "store_dir": f"{scratch}/kv",
        }
        if given.home:
            settings["home"] = given.home
        async with SemShareLLM.open(repair_idle=False, **settings) as llm:
            for kind in given.only:
                runs = [await KINDS[kind](llm, given.seed + 37 * i) for i in range(given.times)]
                for name in runs[0]:
                    figures = [run[name] for run in runs]
                    spread = f"({min(figures):.2f} to {max(figures):.2f})"
                    print(f"{kind:9} {name:12} {statistics.median(figures):8.2f} {spread}", flush=True)


if __name__ == "__main__":
    asyncio.run(main())
