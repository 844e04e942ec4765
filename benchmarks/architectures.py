"""Is every answer right, whatever the model type? Tiny random models of all causal types of transformers, judged.

Each type (and each variant of `tiny_models.VARIANTS`) is built at random in a process of its own and answers turns
through the adapter: repeated, extended, moved, past its window and past every other length that it was given. Of each
turn that is reported `exact` or `cold`, the prefill's logits and every step's are compared with those of
`model.generate(..., output_logits=True)` of a copy of the model. A type ends as

- `right`: all turns are, with the classes of reuse that were seen;
- `refused`: the model is refused when it is loaded, with one typed error;
- `WRONG`: a turn differs by more than 1e-3 of the logits' mean size, or another error is raised.

Run it again to go on where it stopped; `--only` judges some anew.

    python benchmarks/architectures.py --out benchmarks-out/architectures
"""

from __future__ import annotations

import argparse
import asyncio
import copy
import json
import multiprocessing
import os
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import tiny_models
import torch

from semshare_agents import SemShareLLM
from semshare_agents.errors import SemShareError
from semshare_agents.model.loading import LoadedModel, prepare
from semshare_agents.operate import startup
from semshare_agents.reuse.cost import Speeds
from semshare_agents.turn.decode import Decoder

WRONG_FROM = 1e-3
CONTEXT = multiprocessing.get_context("forkserver")
REUSE_PAYS = Speeds(1e-6, 1e-6, 1e-12, 1.0, 1e-6, 1e12)


@dataclass(frozen=True)
class Turn:
    """A turn to judge.

    Attributes:
        name: What it tries.
        text: The prompt; a character is a token.
        answer_tokens: Length of its answer.
    """

    name: str
    text: str
    answer_tokens: int = 4


def turns() -> Iterator[Turn]:
    """The turns, in order; the models' windows, chunks and selections are 32 tokens, their other lengths 64 and 128."""
    rng = np.random.default_rng(5)

    def text(count: int) -> str:
        return bytes(rng.integers(97, 123, count).astype(np.uint8)).decode()

    short, long, longer = text(24), text(100), text(200)
    yield Turn("short", short)
    yield Turn("short again", short)
    yield Turn("shares 16", short[:16] + text(8))
    yield Turn("window met", short, 8)
    yield Turn("window passed by one", text(25), 8)
    yield Turn("answer crosses 32", short, 20)
    yield Turn("100", long)
    yield Turn("100 again", long)
    yield Turn("extends it", long + text(30))
    yield Turn("moved", text(40) + long[10:90])
    yield Turn("answer crosses 64", text(56), 16)
    yield Turn("answer crosses 128", text(120), 16)
    yield Turn("200", longer)
    yield Turn("200 again", longer)
    yield Turn("700", text(700))


async def judged(loaded: LoadedModel, oracle: Any) -> dict[str, Any]:
    """What a model's turns gave: reuse classes, and the worst error with where it was."""
    drawn: list[torch.Tensor] = []
    draw = Decoder.draw

    def noting(self: Any, logits: torch.Tensor) -> Any:
        drawn.append(logits.float().cpu().clone())
        return draw(self, logits)

    seen, errors, reasons = Counter[str](), {}, set()
    with (
        tempfile.TemporaryDirectory() as home,
        patch.object(Decoder, "draw", noting),
        patch.object(startup, "measured", lambda *_: REUSE_PAYS),
    ):
        options: dict[str, Any] = {"min_gain": 1.0, "tail_tokens": 1, "block_tokens": 16, "repair_idle": False}
        async with SemShareLLM.open(loaded=loaded, home=Path(home), **options) as llm:
            for turn in turns():
                if len(turn.text) + turn.answer_tokens > loaded.context_tokens - 1:
                    continue
                drawn.clear()
                messages = [{"role": "user", "content": turn.text}]
                answer = await llm.generate(messages, raw=True, max_new_tokens=turn.answer_tokens)
                await llm.settle()
                seen[answer.report.reuse_class] += 1
                reasons.add(answer.report.reason)
                if answer.report.reuse_class in ("exact", "cold"):
                    prompt = loaded.tokenizer(turn.text, return_tensors="pt")["input_ids"]
                    errors[turn.name] = difference(oracle, prompt, list(answer.tokens), drawn)
    wrong = {name: error for name, error in errors.items() if not error < WRONG_FROM}
    return {
        "classes": dict(seen),
        "worst": max(errors.values()),
        "wrong": wrong,
        "reason": "; ".join(sorted(reasons - {""})),
    }


@torch.inference_mode()
def difference(oracle: Any, prompt: torch.Tensor, tokens: list[int], drawn: list[torch.Tensor]) -> float:
    """The largest relative difference of logits from the library's own, up to the first token that differs."""
    out = oracle.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        do_sample=False,
        max_new_tokens=len(tokens),
        output_logits=True,
        return_dict_in_generate=True,
        pad_token_id=0,
    )
    theirs = out.sequences[0, -len(out.logits) :].tolist()
    worst = 0.0 if len(theirs) == len(tokens) else 1.0
    for mine, their, ours, stock in zip(tokens, theirs, drawn, out.logits, strict=False):
        error = float((ours - stock[0]).abs().mean() / stock[0].abs().mean().clamp_min(1e-9))
        worst = max(worst, error if np.isfinite(error) else 1.0)
        if mine != their:
            break
    return worst


def one(name: str) -> dict[str, Any]:
    """Build and judge one model."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    model = tiny_models.build(name)
    found: dict[str, Any] = {"name": name}
    try:
        loaded = prepare(model, tiny_models.tokenizer(), name)
    except SemShareError as e:
        return {**found, "verdict": "refused", "reason": f"{type(e).__name__}: {e}"}
    support = loaded.support
    found["rows"], found["moves"] = support.rows is not None, support.mover is not None
    found["limit"] = support.window_tokens
    found |= asyncio.run(judged(loaded, copy.deepcopy(model)))
    found["reason"] = str(support.reason or found["reason"])
    return {**found, "verdict": "WRONG" if found["wrong"] else "right"}


def apart(name: str, timeout_seconds: float) -> dict[str, Any]:
    """`one` in a process of its own, so that a crash or a hang is a finding."""
    receiving, sending = CONTEXT.Pipe(duplex=False)
    process = CONTEXT.Process(target=_sent, args=(name, sending))
    process.start()
    sending.close()
    try:
        if not receiving.poll(timeout_seconds):
            return {"name": name, "verdict": "WRONG", "reason": f"no end within {timeout_seconds:.0f} s"}
        result: dict[str, Any] = receiving.recv()
        return result
    except EOFError:
        return {"name": name, "verdict": "WRONG", "reason": "the process crashed"}
    finally:
        process.kill()
        process.join()


def _sent(name: str, sending: Any) -> None:
    try:
        sending.send(one(name))
    except Exception:
        sending.send({"name": name, "verdict": "WRONG", "reason": traceback.format_exc()[-1500:]})


def table(results: list[dict[str, Any]]) -> str:
    """All results as a Markdown table, the counts first."""
    counts = Counter(r["verdict"] for r in results)
    lines = [", ".join(f"{count} {verdict}" for verdict, count in sorted(counts.items())), ""]
    lines += ["| type | verdict | reuse | limit | worst error | why not more |", "|---|---|---|---|---|---|"]
    for r in sorted(results, key=lambda r: r["name"]):
        classes = ", ".join(f"{c} {n}" for c, n in sorted(r.get("classes", {}).items()))
        worst = f"{r['worst']:.1e}" if "worst" in r else ""
        why = str(r.get("reason", "")).replace("|", "/").replace("\n", " ")[-200:]
        wrong = ", ".join(f"{n} {e:.2g}" for n, e in r.get("wrong", {}).items())
        lines.append(f"| {r['name']} | {r['verdict']} {wrong} | {classes} | {r.get('limit') or ''} | {worst} | {why} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("benchmarks-out/architectures"))
    parser.add_argument("--only", nargs="*", help="judge these, whatever is known of them")
    parser.add_argument("--jobs", type=int, default=max(1, (os.cpu_count() or 2) // 2))
    parser.add_argument("--timeout-seconds", type=float, default=300.0)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    kept = given.out / "results.jsonl"
    results = {r["name"]: r for r in map(json.loads, kept.read_text().splitlines())} if kept.exists() else {}
    wanted = given.only or [name for name in tiny_models.names() if name not in results]
    CONTEXT.set_forkserver_preload(["torch", "transformers", "tiny_models", "semshare_agents.llm"])
    with ThreadPoolExecutor(given.jobs) as pool, kept.open("a") as file:
        for result in pool.map(lambda name: apart(name, given.timeout_seconds), wanted):
            results[result["name"]] = result
            file.write(json.dumps(result) + "\n")
            file.flush()
            print(
                f"{result['name']}: {result['verdict']} {result.get('wrong') or result.get('reason', '')}"[:300],
                flush=True,
            )
    (given.out / "table.md").write_text(table(list(results.values())))
    print(table(list(results.values())).splitlines()[0])


if __name__ == "__main__":
    main()
