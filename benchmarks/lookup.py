"""How long a look-up takes among many stored turns (names only, no KV).

usage: python benchmarks/lookup.py [--turns 1000,10000] [--tokens 1000] [--prompts 40] [--postgres] [--json OUT]

Fills a fresh registry with synthetic turns of one tenant, then times the whole `find` stage (chain names, branches,
content names, donors' tokens and blocks) and the semantic candidates for prompts of three kinds: the next turn of a
stored conversation, its text under another system prompt, and unknown text. SQLite in a temporary file, or with
`--postgres` a PostgreSQL server of its own with the server's default settings.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy import Table, insert
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateIndex

from semshare_agents.bench.machine import commit, machine, versions
from semshare_agents.match import hashes
from semshare_agents.match.find import find, find_similar
from semshare_agents.match.signature import Signer
from semshare_agents.registry import Registry
from semshare_agents.registry import tables as t
from semshare_agents.registry.engine import make_engine
from semshare_agents.testing.postgres import server
from semshare_agents.values import Ints, Reuse, Scope

BLOCK_TOKENS = 64
LEAST_TOKENS = 48
VOCABULARY = 49_152
ZIPF = np.cumsum(1 / np.arange(1, VOCABULARY + 1))
ZIPF /= ZIPF[-1]
MOST_BLOCKS = 1000
CHUNK_TURNS = 2000
DROPPED = (
    *(f"DROP INDEX {i.name}" for table in (t.blocks, t.turn_blocks, t.bands) for i in table.indexes),
    "ALTER TABLE turn_blocks DROP CONSTRAINT turn_blocks_pkey",
    "ALTER TABLE bands DROP CONSTRAINT bands_pkey",
)
RESTORED = (
    "ALTER TABLE turn_blocks ADD PRIMARY KEY (turn_id, start)",
    "ALTER TABLE bands ADD PRIMARY KEY (scope_id, value, turn_id)",
    *(
        str(CreateIndex(i).compile(dialect=postgresql.dialect()))
        for table in (t.blocks, t.turn_blocks, t.bands)
        for i in table.indexes
    ),
)


def synthetic(rng: np.random.Generator, tokens: int) -> Ints:
    """Tokens with a natural language's skew: Zipf over the vocabulary, frequent tokens first."""
    return np.searchsorted(ZIPF, rng.random(tokens)).astype(np.int64)


def rows_of(scope: Scope, signer: Signer, first_id: int, texts: list[Ints]) -> dict[Table, list[dict[str, Any]]]:
    """What the registry keeps of turns, the first of which gets an id of its own."""
    turns, blocks, links, bands = [], [], [], []
    for turn_id, tokens in enumerate(texts, start=first_id):
        named = hashes.hash_blocks(scope, tokens, BLOCK_TOKENS, len(tokens))
        contents = hashes.content_hashes(scope, tokens, named, BLOCK_TOKENS)
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
        for number, (block, content) in enumerate(zip(named, contents, strict=True)):
            branch = hashes.partial_block_hash(block.parent, tokens[block.start : block.start + block.length])
            block_id = turn_id * MOST_BLOCKS + number
            blocks.append(
                {
                    "id": block_id,
                    "scope_id": scope.id,
                    "key": f"{block_id:032x}",
                    "turn_id": turn_id,
                    "start": block.start,
                    "length": block.length,
                    "chain": block.prefix.hex(),
                    "branch": branch.hex() if branch else None,
                    "content": content,
                    "size_bytes": 0,
                    "holder": None,
                }
            )
            links.append({"turn_id": turn_id, "start": block.start, "length": block.length, "block_id": block_id})
        bands += [
            {"scope_id": scope.id, "value": v, "turn_id": turn_id} for v in np.unique(signer.bands(tokens)).tolist()
        ]
    return {t.turns: turns, t.blocks: blocks, t.turn_blocks: links, t.bands: bands}


async def fill(registry: Registry, scope: Scope, signer: Signer, texts: Iterable[Ints]) -> None:
    """Register turns in bulk; on PostgreSQL by COPY, with the indexes made afterwards."""
    on_server = registry.dialect == "postgresql"
    async with registry.database.writing() as connection:
        if on_server:
            # The rows refer to each other correctly by construction.
            await connection.exec_driver_sql("SET LOCAL session_replication_role = replica")
            for statement in DROPPED:
                await connection.exec_driver_sql(statement)
        driver = (await connection.get_raw_connection()).driver_connection
        first = 1
        coming = iter(texts)
        while chunk := list(islice(coming, CHUNK_TURNS)):
            for table, rows in rows_of(scope, signer, first, chunk).items():
                if on_server:
                    records = [tuple(row.values()) for row in rows]
                    await driver.copy_records_to_table(table.name, records=records, columns=list(rows[0]), timeout=600)
                else:
                    await connection.execute(insert(table), rows)
            first += len(chunk)
            print(f"{first - 1:>9} turns filled", end="\r", file=sys.stderr)
    if on_server:
        engine = make_engine(registry.database.engine.url.render_as_string(hide_password=False), migrating=True)
        async with engine.begin() as connection:
            for statement in RESTORED:
                await connection.exec_driver_sql(statement)
        await engine.dispose()
    async with registry.database.reading() as connection:
        await connection.exec_driver_sql("VACUUM ANALYZE" if on_server else "ANALYZE")


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


@contextmanager
def database(on_server: bool) -> Iterator[str]:
    """The URL of an empty database, gone afterwards."""
    if on_server:
        with server() as started:
            yield started.database("lookup")
    else:
        with tempfile.TemporaryDirectory() as scratch:
            yield f"sqlite+aiosqlite:///{scratch}/registry.db"


async def measure(url: str, turns: int, tokens: int, count: int) -> dict[str, dict[str, float]]:
    """Median and 99th percentile, in milliseconds, by kind of prompt."""
    rng = np.random.default_rng(0)
    registry = await Registry.open(url)
    scope = await registry.scope("bench", "0" * 64)
    signer = Signer(VOCABULARY, scope.hash_key)
    wanted = set(rng.integers(0, turns, count).tolist())
    texts: list[Ints] = []

    def made() -> Iterator[Ints]:
        for i in range(turns):
            text = synthetic(rng, tokens)
            if i in wanted:
                texts.append(text)
            yield text

    await fill(registry, scope, signer, made())
    prompts = {
        "next turn": [np.concatenate((text, synthetic(rng, 60))) for text in texts],
        "other system prompt": [np.concatenate((synthetic(rng, 30), x[20:], synthetic(rng, 60))) for x in texts],
        "unknown text": [synthetic(rng, tokens + 60) for _ in texts],
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
    parser.add_argument("--postgres", action="store_true", help="a PostgreSQL server in place of SQLite")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    result = {}
    for turns in map(int, arguments.turns.split(",")):
        with database(arguments.postgres) as url:
            result[str(turns)] = asyncio.run(measure(url, turns, arguments.tokens, arguments.prompts))
        for kind, figures in result[str(turns)].items():
            print(f"{turns:>7} turns  {kind:<38} p50 {figures['p50_ms']:6.1f} ms  p99 {figures['p99_ms']:6.1f} ms")
    if arguments.json:
        full = {"lookup": result, "machine": machine(), "versions": versions(), "commit": commit()}
        arguments.json.write_text(json.dumps(full, indent=1))


if __name__ == "__main__":
    main()
