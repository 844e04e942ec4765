"""Reported against felt times to the first token, with several callers at once.

Each caller times its own stream from the call to the first piece of text; the report says how long that was, and how
much of it was waiting for the other callers' turns.

usage: python benchmarks/felt_ttft.py [--callers 8] [--tokens 600] [--model default]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from contextlib import aclosing
from pathlib import Path
from typing import Any

import numpy as np

from semshare_agents.cli.common import quiet_libraries
from semshare_agents.llm import SemShareLLM
from semshare_agents.model.loading import LoadedModel, load
from semshare_agents.settings import load_settings


async def caller(llm: SemShareLLM, seed: int, tokens: int) -> dict[str, Any]:
    """One call, and what its caller felt."""
    numbers = " ".join(map(str, np.random.default_rng(seed).integers(10, 100, tokens // 3)))
    began, felt = time.perf_counter(), None
    async with aclosing(llm.stream([{"role": "user", "content": numbers}])) as pieces:
        async for piece in pieces:
            felt = time.perf_counter() - began if felt is None else felt
            if piece.generation is not None:
                report = piece.generation.report
    assert felt is not None
    told = report.ttft_seconds
    return {"felt_s": felt, "reported_s": told, "off": told / felt - 1, "wait_s": report.stages_seconds["wait"]}


async def measure(loaded: LoadedModel, home: Path, callers: int, tokens: int) -> dict[str, Any]:
    """All callers at once."""
    async with SemShareLLM.open(loaded=loaded, home=home, max_new_tokens=8) as llm:
        rows = await asyncio.gather(*(caller(llm, seed, tokens) for seed in range(callers)))
    return {"callers": rows, "worst_off": max(abs(row["off"]) for row in rows)}


def main() -> None:
    """Print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--callers", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=600)
    parser.add_argument("--model", default="default")
    chosen = parser.parse_args()
    quiet_libraries()
    settings = load_settings(model=chosen.model)
    loaded = load(settings.model, settings.home, settings.device, settings.dtype)
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(asyncio.run(measure(loaded, Path(folder), chosen.callers, chosen.tokens)), indent=1))


if __name__ == "__main__":
    main()
