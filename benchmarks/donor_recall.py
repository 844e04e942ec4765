"""How often signatures find the right donor among many turns, against an exact search.

usage: python benchmarks/donor_recall.py PAIRS.jsonl [MORE.jsonl ...] [--turns 10000] [--topics 100] [--json OUT]

Stores the references of all pairs of a kind and, to `--turns` in all, turns made of sentences drawn at random from the
references, in SQLite. Conversations differ in their names and rare words: the made turns belong to `--topics`
vocabularies, each of which exchanges all but the thousand most frequent tokens for others of like frequency; one is the
references' own. With one topic no word tells any turn apart from another.

Asks for each pair's target with the package's own look-up (six candidates). The exact search compares the target with
every stored turn by what signatures estimate, the weighted Jaccard similarity of windows. Recall is the share of
targets whose reference the look-up finds, of those whose reference the exact search has among its first six.
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
from lookup import fill
from numpy.typing import NDArray

from semshare_agents.bench.machine import provenance
from semshare_agents.bench.pairs import read_pairs
from semshare_agents.match.find import SIMILAR_CANDIDATES, find_similar
from semshare_agents.match.signature import RARITY_POWER, STEP_TOKENS, WINDOW_TOKENS, Signer
from semshare_agents.model import hub
from semshare_agents.registry import Registry
from semshare_agents.settings import load_settings
from semshare_agents.values import Ints

FREQUENT = 1000
BEGINNING = 200


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


def vocabularies(rng: np.random.Generator, size: int, count: int) -> list[Ints]:
    """Maps from token ids to token ids, the first of which changes nothing; ids follow frequency."""
    maps = [np.arange(size)]
    for _ in range(count - 1):
        exchanged = np.arange(size)
        for start in range(FREQUENT, size, FREQUENT):
            exchanged[start : start + FREQUENT] = rng.permutation(exchanged[start : start + FREQUENT])
        maps.append(exchanged)
    return maps


async def measure(files: list[Path], kind: str, turns: int, topics: int) -> dict[str, Any]:
    """Counts, and the share of targets found."""
    from transformers import AutoTokenizer

    settings = load_settings()
    tokenizer = AutoTokenizer.from_pretrained(hub.resolve(settings.model, settings.home))
    references, targets, parts = texts(files, kind, tokenizer)
    rng = np.random.default_rng(0)
    maps = vocabularies(rng, len(tokenizer), topics)
    stored = [maps[i % topics][drawn(rng, parts, len(references[i % len(references)]))] for i in range(turns)]
    # Pairs of one text differ in their last question alone: the text is stored once, and right for all of them.
    texts_seen = {reference[:BEGINNING].tobytes(): reference for reference in references}
    place_of = dict(zip(texts_seen, rng.permutation(turns).tolist(), strict=False))
    for beginning, reference in texts_seen.items():
        stored[place_of[beginning]] = reference
    places = [place_of[reference[:BEGINNING].tobytes()] for reference in references]
    with tempfile.TemporaryDirectory() as scratch:
        registry = await Registry.open(f"sqlite+aiosqlite:///{scratch}/registry.db")
        scope = await registry.scope("bench", "0" * 64)
        signer = Signer(len(tokenizer), scope.hash_key)
        await fill(registry, scope, signer, stored)
        found = [[d.turn_id - 1 for d in await find_similar(registry, scope, signer, target)] for target in targets]
        await registry.close()
    search = ExactSearch(stored, len(tokenizer))
    exact = [search.best(target, SIMILAR_CANDIDATES) for target in targets]
    right = [place in best for place, best in zip(places, exact, strict=True)]
    hits = [place in some for place, some in zip(places, found, strict=True)]
    return {
        "turns": turns,
        "topics": topics,
        "tokens_median": float(np.median([len(r) for r in references])),
        "targets": len(targets),
        "exact_search_finds": sum(right),
        "signatures_find": sum(hits),
        "recall": sum(h for h, r in zip(hits, right, strict=True) if r) / max(1, sum(right)),
        "first_is_right": sum(some[:1] == [place] for place, some in zip(places, found, strict=True)) / len(targets),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--turns", type=int, default=10_000)
    parser.add_argument("--topics", type=int, default=100)
    parser.add_argument("--kind", default="paraphrase")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    figures = asyncio.run(measure(arguments.files, arguments.kind, arguments.turns, arguments.topics))
    topics = figures["topics"]
    print(
        f"{figures['turns']:,} turns of {figures['tokens_median']:.0f} tokens, {topics} topics: "
        f"recall {figures['recall']:.3f} of {figures['exact_search_finds']} that an exact search finds "
        f"({figures['targets']} targets); "
        f"first candidate right: {figures['first_is_right']:.3f}"
    )
    if arguments.json:
        arguments.json.write_text(json.dumps({**figures, **provenance()}, indent=1))


if __name__ == "__main__":
    ended(main)
