"""Seconds saved by each eviction policy against LRU, on random traces that differ in one parameter each.

    python benchmarks/eviction.py [--seeds 3] [--budgets 10 20 40]

Prints medians over seeds. `clairvoyant` evicts what is needed last, which only a replay can know; `no limit` is a
memory without a budget. No policy can save more than the lesser of them.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from statistics import median

from semshare_agents.bench.eviction import CLAIRVOYANT, Setup, all_bytes, simulate
from semshare_agents.bench.traces import Mix, draw_trace
from semshare_agents.cli.evict import DEFAULT_SPEEDS, TOKEN_BYTES
from semshare_agents.reuse.cost import CostModel
from semshare_agents.reuse.speeds import Speeds

BASE = Mix(bursts=600)
MIXES = {
    "base": BASE,
    "zipf 0.7": replace(BASE, zipf=0.7),
    "zipf 1.3": replace(BASE, zipf=1.3),
    "bursts of 2": replace(BASE, burst_turns=2.0),
    "bursts of 8": replace(BASE, burst_turns=8.0),
    "stateless 60 %": replace(BASE, stateless=0.6),
    "a burst every 60 s": replace(BASE, arrival_seconds=60.0),
    "a burst every 1 s": replace(BASE, arrival_seconds=1.0),
    "a burst every 0.3 s": replace(BASE, arrival_seconds=0.3),
}
POLICIES = ("session", "gdsf", "lfu", "slru", "fifo", CLAIRVOYANT)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--budgets", type=int, nargs="+", default=[10, 20, 40])
    parser.add_argument("--moved", action="store_true", help="blocks behind a gap count too")
    chosen = parser.parse_args()
    setup = Setup(CostModel(Speeds(**DEFAULT_SPEEDS), TOKEN_BYTES), TOKEN_BYTES, moved=chosen.moved)
    print("| trace | budget % | LRU hit % | " + " | ".join(POLICIES) + " | no limit |")
    print("|---" * (4 + len(POLICIES)) + "|")
    for name, mix in MIXES.items():
        traces = [draw_trace(mix, seed) for seed in range(chosen.seeds)]
        for budget in chosen.budgets:
            print(f"| {name} | {budget} | {row(traces, budget, setup)} |", flush=True)


def row(traces: list[list], budget: int, setup: Setup) -> str:
    """LRU's hit share, then each policy's seconds saved over LRU's, medians over traces."""
    shares, ratios = [], []
    for trace in traces:
        total = all_bytes(trace, setup)
        base = simulate(trace, "lru", total * budget // 100, setup)
        others = [simulate(trace, policy, total * budget // 100, setup) for policy in POLICIES]
        others.append(simulate(trace, "lru", total, setup))
        shares.append(100 * base.hit_share)
        ratios.append([o.saved_seconds / base.saved_seconds for o in others])
    return " | ".join([f"{median(shares):.0f}", *(f"{median(column):.3f}" for column in zip(*ratios, strict=True))])


if __name__ == "__main__":
    main()
