"""How long a look-up takes among many stored turns (SQLite, names only, no KV).

usage: python benchmarks/lookup.py [--turns 1000,10000] [--tokens 1000] [--prompts 40] [--json OUT]

Fills a fresh registry with synthetic turns of one tenant, then times the whole `find` stage (chain names, branches,
content names, donors' tokens and blocks) and the semantic candidates for prompts of three kinds: the next turn of a
stored conversation, its text under another system prompt, and unknown text.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from pathlib import Path
from uuid import uuid4

import numpy as np
from sqlalchemy import insert

from semshare_agents.bench.machine import commit, machine, versions
from semshare_agents.match import names
from semshare_agents.match.find import find, find_similar
from semshare_agents.match.signature import Signer
from semshare_agents.registry import Registry
from semshare_agents.registry import tables as t
from semshare_agents.values import Ints, Reuse, Scope

BLOCK_TOKENS = 64
LEAST_TOKENS = 48
VOCABULARY = 49_152


def synthetic(rng: np.random.Generator, tokens: int) -> Ints:
    """Tokens with a natural language's skew: Zipf over the vocabulary."""
    return np.minimum(rng.zipf(1.2, tokens), VOCABULARY - 1).astype(np.int64)


async def fill(registry: Registry, scope: Scope, signer: Signer, texts: list[Ints]) -> None:
    """Register turns in bulk."""
    turns, blocks, bands = [], [], []
    for turn_id, tokens in enumerate(texts, start=1):
        named = names.name_blocks(scope, tokens, BLOCK_TOKENS, len(tokens))
        contents = names.contents(scope, tokens, named, BLOCK_TOKENS)
        turns.append(
            {
                "id": turn_id,
                "scope_id": scope.id,
                "session_id": None,
                "created_at": time.time(),
                "reuse_class": "cold",
                "prompt_tokens": len(tokens),
                "stored_tokens": len(tokens),
                "exact_tokens": len(tokens),
                "depth": 0,
                "ttft_seconds": 1.0,
                "predicted_cold_seconds": 1.0,
                "tokens": tokens.astype("<i4").tobytes(),
                "messages": "[]",
                "answer": "",
                "report": "{}",
            }
        )
        for block, content in zip(named, contents, strict=True):
            branch = names.branch(block.parent, tokens[block.start : block.start + block.length])
            blocks.append(
                {
                    "id": len(blocks) + 1,
                    "scope_id": scope.id,
                    "key": uuid4().hex,
                    "turn_id": turn_id,
                    "start": block.start,
                    "length": block.length,
                    "chain": block.chain.hex(),
                    "branch": branch.hex() if branch else None,
                    "content": content,
                    "size_bytes": 0,
                    "holder": None,
                }
            )
        bands += [
            {"scope_id": scope.id, "value": v, "turn_id": turn_id} for v in np.unique(signer.bands(tokens)).tolist()
        ]
    links = [{"turn_id": b["turn_id"], "start": b["start"], "length": b["length"], "block_id": b["id"]} for b in blocks]
    async with registry._writing() as connection:
        for table, rows in ((t.turns, turns), (t.blocks, blocks), (t.turn_blocks, links), (t.bands, bands)):
            for at in range(0, len(rows), 20_000):
                await connection.execute(insert(table), rows[at : at + 20_000])


async def timed(registry: Registry, scope: Scope, signer: Signer, prompts: list[Ints], semantic: bool) -> list[float]:
    """Seconds of each prompt's look-up."""
    seconds = []
    for prompt in prompts:
        start = time.perf_counter()
        await find(registry, scope, prompt, BLOCK_TOKENS, Reuse.MOVED, LEAST_TOKENS)
        if semantic:
            await find_similar(registry, scope, signer, prompt)
        seconds.append(time.perf_counter() - start)
    return seconds


async def measure(turns: int, tokens: int, count: int) -> dict[str, dict[str, float]]:
    """Median and 99th percentile, in milliseconds, by kind of prompt."""
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as scratch:
        registry = await Registry.open(f"sqlite+aiosqlite:///{scratch}/registry.db")
        scope = await registry.scope("bench", "0" * 64)
        signer = Signer(VOCABULARY, scope.seed)
        texts = [synthetic(rng, tokens) for _ in range(turns)]
        await fill(registry, scope, signer, texts)
        picked = rng.integers(0, turns, count)
        prompts = {
            "next turn": [np.concatenate((texts[i], synthetic(rng, 60))) for i in picked],
            "other system prompt": [
                np.concatenate((synthetic(rng, 30), texts[i][20:], synthetic(rng, 60))) for i in picked
            ],
            "unknown text": [synthetic(rng, tokens + 60) for _ in picked],
        }
        out = {}
        for kind, some in prompts.items():
            await timed(registry, scope, signer, some[:3], semantic=True)
            for semantic in (False, True):
                took = np.asarray(await timed(registry, scope, signer, some, semantic)) * 1000
                name = f"{kind}, with signatures" if semantic else kind
                out[name] = {"p50_ms": float(np.median(took)), "p99_ms": float(np.percentile(took, 99))}
        await registry.close()
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", default="1000,10000")
    parser.add_argument("--tokens", type=int, default=1000)
    parser.add_argument("--prompts", type=int, default=40)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    result = {}
    for turns in map(int, arguments.turns.split(",")):
        result[str(turns)] = asyncio.run(measure(turns, arguments.tokens, arguments.prompts))
        for kind, figures in result[str(turns)].items():
            print(f"{turns:>7} turns  {kind:<38} p50 {figures['p50_ms']:6.1f} ms  p99 {figures['p99_ms']:6.1f} ms")
    if arguments.json:
        full = {"lookup": result, "machine": machine(), "versions": versions(), "commit": commit()}
        arguments.json.write_text(json.dumps(full, indent=1))


if __name__ == "__main__":
    main()
