"""How often signatures find the right donor among many turns, against an exact search.

usage: python benchmarks/donor_recall.py PAIRS.jsonl [MORE.jsonl ...] [--turns 10000] [--kind paraphrase] [--json OUT]

Stores the references of all pairs of the kind, and between them turns made of sentences drawn at random from all
references, so that no word tells them apart: `--turns` in all, in SQLite. Asks for each pair's target with the package's
own look-up (six candidates). The exact search compares the target with every stored turn by what signatures estimate,
the weighted Jaccard similarity of windows. Recall is the share of targets whose reference the look-up finds, of those
whose reference the exact search has among its first six.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from common import ended, sentences
from lookup import BLOCK_TOKENS, fill
from numpy.typing import NDArray

from semshare_agents.bench.machine import provenance
from semshare_agents.bench.pairs import read_pairs
from semshare_agents.match.find import SIMILAR_CANDIDATES, find_similar
from semshare_agents.match.signature import RARITY_POWER, STEP_TOKENS, WINDOW_TOKENS, Signer
from semshare_agents.model import hub
from semshare_agents.registry import Registry
from semshare_agents.settings import load_settings
from semshare_agents.values import Ints


def windows(tokens: Ints) -> list[Ints]:
    """The tokens that each window has, as signatures see them."""
    starts = range(0, max(1, len(tokens) - WINDOW_TOKENS + STEP_TOKENS), STEP_TOKENS)
    return [np.unique(tokens[start : start + WINDOW_TOKENS]) for start in starts]


class ExactSearch:
    """Compares a prompt with every stored turn."""

    def __init__(self, turns: list[Ints], vocabulary: int):
        rarity = np.log1p(np.arange(vocabulary))
        self._weight: NDArray[np.float64] = (rarity / rarity.max()) ** RARITY_POWER + 1e-9
        stored = [windows(tokens) for tokens in turns]
        self._tokens = np.concatenate([window for turn in stored for window in turn])
        sizes = [len(window) for turn in stored for window in turn]
        self._starts = np.cumsum([0, *sizes[:-1]])
        self._turn_starts = np.cumsum([0, *map(len, stored[:-1])])
        self._mass = np.add.reduceat(self._weight[self._tokens], self._starts)

    def best(self, prompt: Ints, count: int) -> list[int]:
        """Indexes of the most similar turns: the sum over the prompt's windows of the best window of the turn."""
        total = np.zeros(len(self._turn_starts))
        for window in windows(prompt):
            here = np.zeros(len(self._weight))
            here[window] = self._weight[window]
            common = np.add.reduceat(here[self._tokens], self._starts)
            similarity = common / (self._mass + here.sum() - common)
            total += np.maximum.reduceat(similarity, self._turn_starts)
        return np.argsort(-total)[:count].tolist()


def texts(files: list[Path], kind: str, tokenizer: Any) -> tuple[list[Ints], list[Ints], list[Ints]]:
    """Token ids of references, of targets, and of the references' sentences."""
    references, targets, parts = [], [], []

    def ids(text: str) -> Ints:
        return np.asarray(tokenizer(text, add_special_tokens=False)["input_ids"], np.int64)

    for pair in (pair for path in files for pair in read_pairs(path, [kind], None)):
        reference, target = ("\n\n".join(m["content"] for m in pair[side]) for side in ("reference", "target"))
        references.append(ids(reference))
        targets.append(ids(target))
        parts += [ids(sentence) for sentence in sentences(reference)]
    return references, targets, parts


def drawn(rng: np.random.Generator, parts: list[Ints], tokens: int) -> Ints:
    """A turn of about so many tokens, of sentences at random."""
    taken: list[Ints] = []
    while sum(map(len, taken)) < tokens:
        taken.append(parts[rng.integers(len(parts))])
    return np.concatenate(taken)


async def measure(files: list[Path], kind: str, turns: int) -> dict[str, Any]:
    """Counts, and the share of targets found."""
    from transformers import AutoTokenizer

    settings = load_settings()
    tokenizer = AutoTokenizer.from_pretrained(hub.resolve(settings.model, settings.home))
    references, targets, parts = texts(files, kind, tokenizer)
    rng = np.random.default_rng(0)
    stored = [drawn(rng, parts, len(references[i % len(references)])) for i in range(turns)]
    places = rng.permutation(turns)[: len(references)].tolist()
    for place, reference in zip(places, references, strict=True):
        stored[place] = reference
    with tempfile.TemporaryDirectory() as scratch:
        registry = await Registry.open(f"sqlite+aiosqlite:///{scratch}/registry.db")
        scope = await registry.scope("bench", "0" * 64)
        signer = Signer(len(tokenizer), scope.seed)
        await fill(registry, scope, signer, stored)
        found = [[d.turn_id - 1 for d in await find_similar(registry, scope, signer, target)] for target in targets]
        await registry.close()
    search = ExactSearch(stored, len(tokenizer))
    exact = [search.best(target, SIMILAR_CANDIDATES) for target in targets]
    right = [place in best for place, best in zip(places, exact, strict=True)]
    hits = [place in some for place, some in zip(places, found, strict=True)]
    return {
        "turns": turns,
        "tokens_median": float(np.median([len(r) for r in references])),
        "targets": len(targets),
        "exact_search_finds": sum(right),
        "signatures_find": sum(hits),
        "recall": sum(h for h, r in zip(hits, right, strict=True) if r) / max(1, sum(right)),
        "first_is_right": sum(some[:1] == [place] for place, some in zip(places, found, strict=True)) / len(targets),
        "block_tokens": BLOCK_TOKENS,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--turns", type=int, default=10_000)
    parser.add_argument("--kind", default="paraphrase")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    figures = asyncio.run(measure(arguments.files, arguments.kind, arguments.turns))
    print(
        f"{figures['turns']:,} turns of {figures['tokens_median']:.0f} tokens: recall {figures['recall']:.3f} of "
        f"{figures['exact_search_finds']} that an exact search finds ({figures['targets']} targets); "
        f"first candidate right: {figures['first_is_right']:.3f}"
    )
    if arguments.json:
        arguments.json.write_text(json.dumps({**figures, **provenance()}, indent=1))


if __name__ == "__main__":
    ended(main)
