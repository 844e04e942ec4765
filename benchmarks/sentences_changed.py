"""How reuse fares when 10 to 90 % of a stored prompt's sentences are gone or others (figure 9 of arXiv 2509.24832).

usage: python benchmarks/sentences_changed.py PAIRS.jsonl|TEXT.txt [--kind paraphrase] [--limit 4] [--out FOLDER]

The target stays as it is and is run cold once; stored is a reference in which a random share of the sentences is
`removed`, `replaced` by sentences from elsewhere in the file, or `reworded` (what the other wording says there; pairs
only). So the share is what the target has that the memory has not.
"""

from __future__ import annotations

import asyncio
from statistics import mean, median
from typing import Any

import numpy as np
from common import OTHER_QUESTION, QUESTION, Text, arguments, asked, ended, finish, prepared, texts

from semshare_agents.bench.cold import cold_answer
from semshare_agents.bench.pairs import PairsOptions, fresh_memory, measure_reuse, prompt_of, warm_up
from semshare_agents.bench.plots import Panel, Series, draw_panels
from semshare_agents.cli.common import console
from semshare_agents.errors import ConfigurationError
from semshare_agents.model.loading import LoadedModel
from semshare_agents.settings import Settings
from semshare_agents.values import Reuse

MEANS = ("rows_share", "kl_mean", "top1_agreement", "rouge_l")


def changed(text: Text, how: str, share: float, elsewhere: list[str], rng: np.random.Generator) -> str:
    """The text with a share of its sentences removed, replaced or reworded."""
    picked = set(rng.permutation(len(text.sentences))[: round(share * len(text.sentences))].tolist())
    out = []
    for index, sentence in enumerate(text.sentences):
        if index not in picked:
            out.append(sentence)
        elif how == "replaced":
            out.append(str(rng.choice(elsewhere)))
        elif how == "reworded":
            out.append(text.reworded[index])
    return "".join(out).strip()


async def measure(
    text: Text,
    elsewhere: list[str],
    ways: list[str],
    shares: list[float],
    model: LoadedModel,
    settings: Settings,
    options: PairsOptions,
) -> list[dict[str, Any]]:
    """Every way and share on one text."""
    target = asked("".join(text.sentences).strip(), QUESTION)
    rows: list[dict[str, Any]] = []
    cold = None
    for way in ways:
        for share in shares:
            reference = changed(text, way, share, elsewhere, np.random.default_rng(round(1000 * share)))
            async with fresh_memory(model, settings, options.tier) as llm:
                pipeline = llm.pipeline
                if cold is None:
                    await warm_up(llm, {"target": target})
                    prompt = await prompt_of(model, target)
                    cold = await cold_answer(pipeline.engine, model, prompt, options.max_new_tokens, options.repeat)
                await llm.generate(asked(reference, OTHER_QUESTION), max_new_tokens=1)
                await llm.flush()
                figures = await measure_reuse(pipeline, target, cold, options)
            rows.append({"id": text.name, "way": way, "share": share, **figures})
    return rows


def summarise(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Median speed-up and mean fidelity of each way and share."""
    groups: dict[tuple[str, float], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["way"], row["share"]), []).append(row)
    return [
        {
            "way": way,
            "share": share,
            "texts": len(mine),
            "speedup": median(row["speedup"] for row in mine),
            **{
                name: mean(row[name] for row in mine) for name in ("rows_share", "kl_mean", "top1_agreement", "rouge_l")
            },
        }
        for (way, share), mine in groups.items()
    ]


def main() -> None:
    parser = arguments(__doc__, "pairs, one JSON object a line, or a plain text of at least a page")
    parser.add_argument("--kind", action="append", default=None, help="kinds of pairs; repeatable")
    parser.add_argument("--limit", type=int, default=4, help="most pairs of a kind")
    parser.add_argument("--shares", default="0.1,0.3,0.5,0.7,0.9")
    parser.add_argument("--reuse", default="semantic")
    given = parser.parse_args()
    shares = [float(word) for word in given.shares.split(",")]
    model, settings = prepared(given)
    all_texts = texts(given.file, given.kind or (), given.limit)
    options = PairsOptions(reuse=Reuse.parse(given.reuse), max_new_tokens=given.max_new_tokens, repeat=given.repeat)
    rows: list[dict[str, Any]] = []
    for number, text in enumerate(all_texts):
        ways = ["removed", *(["replaced"] if len(all_texts) > 1 else []), *(["reworded"] if text.reworded else [])]
        elsewhere = [s for i, other in enumerate(all_texts) if i != number for s in other.sentences]
        elsewhere = [s for s in elsewhere if s not in set(text.sentences)] or elsewhere
        rows += asyncio.run(measure(text, elsewhere, ways, shares, model, settings, options))
        console.print(f"{text.name}: {len(text.sentences)} sentences, {', '.join(ways)}")
    if not rows:
        raise ConfigurationError(f"{given.file} has no texts")
    summary = summarise(rows)
    caption = (
        f"{len(all_texts)} texts, reuse {given.reuse}. The stored reference lacks, or has others in the place of, this "
        "share of the target's sentences. Speed-up: stock cold prefill over reuse, median; KL of cold to reuse and "
        "ROUGE-L to the cold answer, means."
    )
    panels = [panel(summary, name, label) for name, label in FIGURES.items()]
    drawn = draw_panels(panels, "Sentences removed, replaced, reworded", caption, given.out / "sentences_changed")
    table = [
        {
            "reference": point["way"],
            "sentences": f"{100 * point['share']:g} %",
            "rows": f"{point['rows_share']:.2f}",
            "speed-up": f"{point['speedup']:.1f}x",
            "KL": f"{point['kl_mean']:.2g}",
            "top-1": f"{point['top1_agreement']:.3f}",
            "ROUGE-L to cold": f"{point['rouge_l']:.3f}",
        }
        for point in summary
    ]
    finish(given.out / "sentences_changed", "sentences changed", {"rows": rows, "summary": summary}, table, drawn)


FIGURES = {"speedup": "TTFT speed-up", "kl_mean": "KL of cold to reuse, nats", "rouge_l": "ROUGE-L to the cold answer"}


def panel(summary: list[dict[str, Any]], name: str, label: str) -> Panel:
    ways = list(dict.fromkeys(point["way"] for point in summary))
    lines = []
    for way in ways:
        mine = [point for point in summary if point["way"] == way]
        lines.append(Series(way, [100 * point["share"] for point in mine], [point[name] for point in mine]))
    return Panel(lines, "sentences changed, %", label)


if __name__ == "__main__":
    ended(main)
