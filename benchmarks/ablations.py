"""What each part of the method is worth: zeroed KV, random mapping and more (the paper's ablations), beside the whole.

usage: python benchmarks/ablations.py PAIRS.jsonl [--kind paraphrase] [--limit 4] [--out FOLDER]
"""

from __future__ import annotations

import asyncio

from common import arguments, ended, finish, prepared

from semshare_agents.bench.configurations import ablated, default_configuration
from semshare_agents.bench.frontier import FrontierOptions, frontier_table, run_frontier
from semshare_agents.bench.pairs import PairsOptions, read_pairs
from semshare_agents.bench.plots import draw_bars
from semshare_agents.cli.common import console


def main() -> None:
    parser = arguments(__doc__, "pairs, one JSON object a line")
    parser.add_argument("--kind", action="append", default=None, help="kinds of pairs; repeatable")
    parser.add_argument("--limit", type=int, default=4, help="most pairs of a kind")
    given = parser.parse_args()
    pairs = read_pairs(given.file, given.kind or (), given.limit)
    model, settings = prepared(given)
    whole = default_configuration(settings)
    options = FrontierOptions(
        lines=(whole,),
        shares=(settings.semantic_share,),
        ablations=tuple(ablated(whole)),
        ablation_share=settings.semantic_share,
        pairs=PairsOptions(max_new_tokens=given.max_new_tokens, repeat=given.repeat),
    )
    said = "{id}  {configuration:<24} {speedup:5.1f}x  KL {kl_mean:.4f}  ROUGE-L {rouge_l:.3f}"
    result = asyncio.run(run_frontier(pairs, model, settings, options, lambda row: console.print(said.format_map(row))))
    points, baselines = result["summary"]["points"], result["summary"]["baselines"]
    groups = {
        "KL of cold to reuse, nats": {p["configuration"]: p["kl"] for p in points}
        | {"reference text": baselines["reference_text"]["kl"], "cold noise floor": baselines["floor"]["kl"]},
        "top-1 agreement": {p["configuration"]: p["agreement"] for p in points}
        | {
            "reference text": baselines["reference_text"]["agreement"],
            "cold noise floor": baselines["floor"]["agreement"],
        },
    }
    caption = (
        f"{result['summary']['pairs']} pairs, {100 * settings.semantic_share:g} % of the semantically matched rows "
        f"computed again, strategy {whole.strategy}. Reference text: the question asked of the reference's text. Cold "
        "noise floor: two cold runs by different routes, nothing reused."
    )
    base = given.out / "ablations"
    drawn = draw_bars(groups, "", "Ablations", caption, base)
    finish(base, "ablations", result, frontier_table(result["summary"]), drawn)


if __name__ == "__main__":
    ended(main)
