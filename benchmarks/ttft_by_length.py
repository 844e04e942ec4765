"""Time to the first token and size of the KV against prompt length (figures 8a and 8b of arXiv 2509.24832).

usage: python benchmarks/ttft_by_length.py PAIRS.jsonl [--kind long] [--lengths 512,...,7168] [--out FOLDER]

The texts of the file are laid end to end and cut to each length. One prompt a length, a question on the text, is run
cold and with four memories that hold one turn each: nothing related, the same text with another question (exact), the
same under another system prompt (moved), and the other wording of the text (semantic).
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from common import (
    OTHER_QUESTION,
    OTHER_SYSTEM,
    QUESTION,
    Message,
    Text,
    arguments,
    asked,
    ended,
    finish,
    prepared,
    texts,
)

from semshare_agents.bench.cold import Cold, cold_answer
from semshare_agents.bench.pairs import PairsOptions, fresh_memory, measure_reuse, prompt_of, warm_up
from semshare_agents.bench.plots import Panel, Series, draw_panels
from semshare_agents.cli.common import console
from semshare_agents.errors import ConfigurationError
from semshare_agents.llm import SemShareLLM
from semshare_agents.model.loading import LoadedModel
from semshare_agents.request.request import Request
from semshare_agents.settings import Settings
from semshare_agents.values import Reuse, Sampling

CASES = {"exact": Reuse.EXACT, "moved": Reuse.MOVED, "semantic": Reuse.SEMANTIC}
MIB = 2**20


def cut(model: LoadedModel, all_texts: list[Text], tokens: int) -> tuple[str, str] | None:
    """So many tokens of text and the same part of the other wording; None where the file has too little."""
    left: list[str] = []
    right: list[str] = []
    count = 0
    for text in all_texts:
        for sentence, other in zip(text.sentences, text.reworded, strict=True):
            left.append(sentence)
            right.append(other)
            count += len(model.tokenizer.encode(sentence, add_special_tokens=False))
            if count >= tokens:
                return "".join(left).rstrip(), "".join(right).rstrip()
    return None


async def measure(model: LoadedModel, settings: Settings, both: tuple[str, str], options: PairsOptions) -> dict:
    """The figures of one length."""
    text, other = both
    target = asked(text, QUESTION)
    stored = {
        "exact": asked(text, OTHER_QUESTION),
        "moved": asked(text, OTHER_QUESTION, OTHER_SYSTEM),
        "semantic": asked(other, OTHER_QUESTION),
    }
    row: dict[str, Any] = {}
    cold: Cold | None = None
    for case, reuse in CASES.items():
        async with fresh_memory(model, settings, options.tier) as llm:
            if cold is None:
                await warm_up(llm, {"target": target})
                cold, row = await run_cold(llm, target, options)
            await llm.generate(stored[case], max_new_tokens=1)
            await llm.flush()
            how = PairsOptions(reuse=reuse, max_new_tokens=options.max_new_tokens, repeat=options.repeat)
            figures = await measure_reuse(llm.pipeline, target, cold, how)
            row[case] = {**figures, "device_kv_bytes": await device_bytes(llm, target, reuse)}
            row["stored_kv_bytes"] = sum(tier.used_bytes for tier in llm.pipeline.memory.tiers.tiers)
    return row


async def run_cold(llm: SemShareLLM, target: list[Message], options: PairsOptions) -> tuple[Cold, dict[str, Any]]:
    """The cold run and what it took."""
    model = llm.pipeline.model
    prompt = await prompt_of(model, target)
    cold = await cold_answer(llm.pipeline.engine, model, prompt, options.max_new_tokens, options.repeat)
    token_bytes = model.support.rows.token_bytes if model.support.rows is not None else 0
    return cold, {"n_tokens": len(prompt), "ttft_cold_s": cold.seconds, "cold_kv_bytes": token_bytes * len(prompt)}


async def device_bytes(llm: SemShareLLM, target: list[Message], reuse: Reuse) -> int:
    """What a turn's KV takes while it is answered, room for the answer and rounding included."""
    sampling = Sampling(max_new_tokens=1)
    prefilled = await llm.pipeline.prefill(Request(target, "default", reuse, sampling, store=False))
    try:
        buffer = getattr(prefilled.run, "buffer", None)
        return 0 if buffer is None else buffer.nbytes
    finally:
        prefilled.run.close()


def main() -> None:
    parser = arguments(__doc__, "pairs of two wordings, one JSON object a line")
    parser.add_argument("--kind", action="append", default=None, help="kinds of pairs to take text from; repeatable")
    parser.add_argument("--limit", type=int, default=None, help="most pairs of a kind")
    parser.add_argument("--lengths", default="512,1024,2048,3072,4096,5120,6144,7168")
    given = parser.parse_args()
    lengths = [int(word) for word in given.lengths.split(",")]
    model, settings = prepared(given)
    all_texts = [text for text in texts(given.file, given.kind or (), given.limit) if text.reworded]
    options = PairsOptions(max_new_tokens=given.max_new_tokens, repeat=given.repeat)
    rows = []
    for length in lengths:
        both = cut(model, all_texts, length)
        if both is None:
            console.print(f"left out: {length} tokens, more than the file's texts have in two wordings")
            continue
        rows.append({"length": length, **asyncio.run(measure(model, settings, both, options))})
        console.print(f"{rows[-1]['n_tokens']} tokens: cold {rows[-1]['ttft_cold_s']:.2f} s", end="")
        console.print("".join(f", {case} {rows[-1][case]['ttft_reuse_s']:.2f} s" for case in CASES))
    if not rows:
        raise ConfigurationError(f"{given.file} has too little text in two wordings for any of the lengths")
    base = given.out / "ttft_by_length"
    finish(base, "time to first token by length", {"rows": rows}, table(rows), draw(base, rows))


def table(rows: list[dict[str, Any]]) -> list[dict[str, str]]:
    return [
        {
            "tokens": str(row["n_tokens"]),
            "cold s": f"{row['ttft_cold_s']:.2f}",
            **{f"{c} s": f"{row[c]['ttft_reuse_s']:.2f} ({row[c]['speedup']:.1f}x)" for c in CASES},
            **{f"{c} KL": f"{row[c]['kl_mean']:.2g}" for c in CASES},
            "KV MiB cold": f"{row['cold_kv_bytes'] / MIB:.0f}",
            "KV MiB reuse": f"{row['semantic']['device_kv_bytes'] / MIB:.0f}",
        }
        for row in rows
    ]


def draw(base: Path, rows: list[dict[str, Any]]) -> list[Path]:
    x = [row["n_tokens"] for row in rows]
    times = [Series("cold", x, [row["ttft_cold_s"] for row in rows])]
    times += [Series(case, x, [row[case]["ttft_reuse_s"] for row in rows]) for case in CASES]
    sizes = [
        Series("cold", x, [row["cold_kv_bytes"] / MIB for row in rows]),
        Series("semantic", x, [row["semantic"]["device_kv_bytes"] / MIB for row in rows]),
        Series("stored", x, [row["stored_kv_bytes"] / MIB for row in rows]),
    ]
    panels = [
        Panel(times, "prompt, tokens", "time to first token, s (log)", log_y=True),
        Panel(sizes, "prompt, tokens", "KV, MiB"),
    ]
    caption = (
        "Left: stock cold prefill, and everything from message list to first token with reuse. Right: KV of the prompt "
        "in the stock cache, the buffer a reusing turn computes in (rounded up, room for the answer included), and "
        "what the memory keeps of the reference."
    )
    return draw_panels(panels, "Time to first token and KV by prompt length", caption, base)


if __name__ == "__main__":
    ended(main)
